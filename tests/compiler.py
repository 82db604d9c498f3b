"""How XLA compiles for tests."""

from importlib.metadata import version


def xla_flags(given: str) -> str:
    """What `XLA_FLAGS` must be set to before the first use of jax."""
    # Eight virtual devices, for the tests of sharding.
    flags = [given, "--xla_force_host_platform_device_count=8"]
    # A device that waits 40 seconds for the others ends the process: too few where two
    # cores serve eight devices and other tests.
    flags.append("--xla_cpu_collective_call_terminate_timeout_seconds=600")
    # Tests compile thousands of programs and run each for microseconds: to optimise
    # less halves their time. Who names a level gets the compiler that users have.
    if "xla_backend_optimization_level" not in given:
        flags.append("--xla_backend_optimization_level=0")
        if version("jaxlib").startswith("0.10."):  # elsewhere unknown, which is fatal
            flags.append("--xla_cpu_use_fusion_emitters=false")
    return " ".join(flags)

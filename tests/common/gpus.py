"""Which of the shipped hardware profiles there are."""

from aquasim.hardware.profile import load_profile, profile_names


def kernel_profile_names() -> list[str]:
    """Names of the profiles that were fitted to kernels, not to layer times only."""
    return [name for name in profile_names() if "rates" not in load_profile(name).blocks]

"""Optional packages, which the extras of pyproject.toml install."""

from importlib.util import find_spec

from cnr_iemn.errors import ConfigurationError


def require_package(package: str, key: str, alternative: str = "", *, extra: str | None = None) -> None:
    """Check that an optional package is installed.

    Args:
        package: Its import name.
        key: The setting that needs it.
        alternative: The end of the sentence, what to do without it.
        extra: Name of the extra, where it is not the package's.

    Raises:
        ConfigurationError: It is not.
    """
    if find_spec(package) is None:
        end = f", {alternative}" if alternative else ""
        raise ConfigurationError(
            f"{key} needs the package {package}, which is not installed. Install it with "
            f"pip install '.[{extra or package}]'{end}."
        )

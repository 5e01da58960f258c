"""Where Hydra looks for config files, next to those of this package."""

from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin

from afr_clip.config.nodes import config_dir, known_methods


class MethodFolders(SearchPathPlugin):
    """Let Hydra find the config files that installed methods bring: ``module/``, ``recipe/`` and others."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append their folders, so that a file of this package wins over one of the same name."""
        for method in known_methods().values():
            if method.conf != Path(config_dir()):
                search_path.append(provider=method.package, path=f"file://{method.conf}")

"""Command `completion`."""

from typing import Literal

from fer_batch.cli.app import OTHER, add_command, app
from fer_batch.cli.output import print_text

SPACE_FIXES = {
    'COMPREPLY=( $(compgen -f -- "${cur}") )': 'mapfile -t COMPREPLY < <(compgen -f -- "${cur}")',
    "complete -F _fer_batch": "complete -o filenames -F _fer_batch",
}
"""Changes to the script for bash of cyclopts, which splits file names at spaces."""


@add_command(OTHER)
def completion_command(shell: Literal["bash", "zsh", "fish"], /) -> None:
    """Print a completion script for a shell.

    The script completes commands, options and paths in shells that start afterwards. Print it again after an
    update of fer_batch.

    Examples:
      fer-batch completion bash > ~/.fer-batch.bash && echo 'source ~/.fer-batch.bash' >> ~/.bashrc
      fer-batch completion zsh > "${fpath[1]}/_fer-batch"
      fer-batch completion fish > ~/.config/fish/completions/fer-batch.fish
    """
    script = app.generate_completion(shell=shell)
    for cyclopts_line, line in SPACE_FIXES.items():
        script = script.replace(cyclopts_line, line)
    print_text(script)

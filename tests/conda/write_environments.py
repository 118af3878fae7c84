"""envs/*.yaml anew, from what the scripts import: PYTHONPATH=tests python -m conda.write_environments."""

from conda import environments


def main() -> None:
    """Write every environment."""
    for env in environments.environments():
        environments.yaml_path(env).write_text(environments.content(env))
        print(environments.yaml_path(env).relative_to(environments.ROOT))


if __name__ == "__main__":
    main()

"""Lists the files of the package that import each other in a circle, imports for types included; fails if any do."""

import sys

import grimp


def circles(graph: grimp.ImportGraph) -> list[set[str]]:
    """
    :param graph: of a package
    :return: the groups of modules in which each imports each other, directly or through others; the largest first
    """
    reached = {module: graph.find_upstream_modules(module) for module in graph.modules}
    groups = {
        frozenset({module} | {other for other in seen if module in reached[other]}) for module, seen in reached.items()
    }
    return sorted((set(group) for group in groups if len(group) > 1), key=len, reverse=True)


def main() -> int:
    """:return: 1 if there is a circle"""
    graph = grimp.build_graph("sb3_o2o")
    found = circles(graph)
    for group in found:
        print(f"{len(group)} files import each other:", *sorted(group), sep="\n  ")
    if not found:
        print(f"No circle: {len(graph.modules)} files.")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())

"""What is changed in a compiled graph. Importing this takes seconds: it imports the compiler."""

from __future__ import annotations

import torch as th
from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files

_aten = th.ops.aten


class SplitBias(CustomGraphPass):
    """
    Take the bias out of linear layers on a CPU. torch copies it into the result before the product is added; by itself
    it is fused with the activation that follows.
    """

    def __call__(self, graph: th.fx.Graph) -> None:
        """
        :param graph: changed in place
        """
        for node in graph.find_nodes(op="call_function", target=_aten.addmm.default):
            bias, left, right = node.args
            if node.kwargs or node.meta["val"].device.type != "cpu":
                continue
            with graph.inserting_before(node):
                product = graph.call_function(_aten.mm.default, (left, right))
                total = graph.call_function(_aten.add.Tensor, (product, bias))
            for new in (product, total):
                new.meta.update(node.meta)
            node.replace_all_uses_with(total)
            graph.erase_node(node)

    def uuid(self) -> object:
        """:return: by which torch's cache on disk tells graphs with this change from others"""
        return get_hash_for_files((__file__,))

"""A simulated node for each test."""

from __future__ import annotations

import pytest

from tests.unit.simulator.simulated import Node


@pytest.fixture
def user_node(tmp_path):
    """A node whose administrator installed the driver; the packages act as an ordinary user."""
    return Node(tmp_path, privileged=False)


@pytest.fixture
def bare_node(tmp_path):
    """A node without a driver; the packages believe to be root on it."""
    node = Node(tmp_path, privileged=True)
    node.add_user()
    return node

"""Ports for servers of tests: nobody else is given one."""

from __future__ import annotations

import socket
import subprocess
import sys

from tools import ports

ASK = "from tools import ports; print(*(ports.free() for _ in range(50))); input()"


def test_processes_that_live_at_one_time_are_given_different_ports():
    command = [sys.executable, "-c", ASK]
    asking = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(8)]
    try:
        given = [port for process in asking for port in process.stdout.readline().split()]
        assert len(given) == 8 * 50 == len(set(given))
    finally:
        for process in asking:
            process.communicate("\n", timeout=20)


def test_a_port_is_not_given_again_soon_nor_while_somebody_listens():
    first = ports.free()
    with socket.create_server(("127.0.0.1", first)):
        given = {ports.free() for _ in range(ports.BLOCK - 1)}
        assert len(given) == ports.BLOCK - 1
        assert first not in given | {ports.free()}

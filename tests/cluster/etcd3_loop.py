# SPDX-License-Identifier: Apache-2.0
"""Watches a prefix and keeps a lease alive with the package etcd3, as an application would do it:
whatever fails is tried again. stock_test.go runs it as

    etcd3_loop.py HOST:PORT PREFIX KEY TTL

Each event is printed as a line of JSON. At the end of its input it prints how often the lease was
renewed, what failed meanwhile, and how the lease was lost, if it was.
"""

import collections
import json
import sys
import threading
import time

import etcd3

ended = threading.Event()
failures = collections.Counter()
speaking = threading.Lock()


def say(**what):
    with speaking:
        print(json.dumps(what), flush=True)


def client(address, timeout):
    host, port = address.split(":")
    return etcd3.client(host=host, port=int(port), timeout=timeout)


def failed(error):
    failures[f"{type(error).__name__} {error}"[:100]] += 1
    ended.wait(0.1)


def insist(call):
    """What a call returns when it works at last; None if the end comes first."""
    while not ended.is_set():
        try:
            return call()
        except Exception as error:  # pylint: disable=broad-except
            failed(error)
    return None


def follow(address, prefix):
    """Prints all events, from the first on; a watch that fails goes on behind the last one."""
    revision = 0
    while not ended.is_set():
        try:
            watch = client(address, 5).watch_prefix(prefix, start_revision=revision + 1)
            for event in watch[0]:
                revision = event.mod_revision
                say(key=event.key.decode(), value=event.value.decode(), revision=revision)
        except Exception as error:  # pylint: disable=broad-except
            failed(error)


def keep(address, key, ttl):
    """Puts a key on a lease and renews it until the end."""
    c = client(address, ttl / 3)
    lease = insist(lambda: c.lease(ttl))
    insist(lambda: c.put(key, "kept", lease))
    renewed, count, lost = time.monotonic(), 0, ""
    while not ended.wait(ttl / 6) and not lost:
        asked = time.monotonic()
        left = insist(lambda: [answer.TTL for answer in lease.refresh()])
        if left == [ttl]:
            renewed, count = asked, count + 1
        elif left:
            lost = f"TTL {left}, {asked - renewed:.1f} s after the last renewal"
    say(renewed=count, failures=failures, lost=lost)


def main(address, prefix, key, ttl):
    threading.Thread(target=follow, args=(address, prefix), daemon=True).start()
    keeper = threading.Thread(target=keep, args=(address, key, int(ttl)), daemon=True)
    keeper.start()
    sys.stdin.read()
    ended.set()
    keeper.join(20)


if __name__ == "__main__":
    main(*sys.argv[1:])

# SPDX-License-Identifier: Apache-2.0
"""What the package etcd3 does with watches and leases.

test_etcd3.py runs each function here in a process of its own: the package comes with stubs of an
old protoc, which only protobuf's pure Python takes, and which don't go together with those that
test_python.py makes.
"""

import queue
import sys
import threading
import time

import etcd3

PATIENCE = 30


def client(address):
    host, port = address.split(":")
    return etcd3.client(host=host, port=int(port), timeout=PATIENCE)


def told(events, count):
    """The next events of an iterator, which must come in time."""
    got = queue.Queue()

    def take():
        for _ in range(count):
            got.put(next(events))

    threading.Thread(target=take, daemon=True).start()
    return [got.get(timeout=PATIENCE) for _ in range(count)]


def watch_key(c):
    events, cancel = c.watch("w/key")
    for i in range(5):
        c.put("w/key", str(i))
    c.delete("w/key")
    got = told(events, 6)
    assert [e.value for e in got[:5]] == [b"0", b"1", b"2", b"3", b"4"]
    assert all(isinstance(e, etcd3.events.PutEvent) for e in got[:5])
    assert isinstance(got[5], etcd3.events.DeleteEvent)
    revisions = [e.mod_revision for e in got]
    assert revisions == list(range(revisions[0], revisions[0] + 6))
    cancel()


def watch_past(c):
    for i in range(3):
        c.put(f"w/past/{i}", "v")
    _, meta = c.get("w/past/0")
    events, cancel = c.watch_prefix("w/past/", start_revision=meta.mod_revision, prev_kv=True)
    c.put("w/past/1", "again")
    got = told(events, 4)
    assert [e.key for e in got] == [b"w/past/0", b"w/past/1", b"w/past/2", b"w/past/1"]
    assert [e.prev_value for e in got] == [b"", b"", b"", b"v"]
    cancel()


def watch_once(c):
    done = threading.Event()

    def put():
        while not done.wait(0.2):
            c.put("w/once", "seen")

    putting = threading.Thread(target=put)
    putting.start()
    try:
        assert c.watch_once("w/once", timeout=PATIENCE).value == b"seen"
    finally:
        done.set()
        putting.join()


def watch_callback(c):
    got = queue.Queue()
    watch_id = c.add_watch_callback("w/call", got.put)
    c.put("w/call", "v")
    assert got.get(timeout=PATIENCE).events[0].value == b"v"
    c.cancel_watch(watch_id)
    other = queue.Queue()
    c.add_watch_callback("w/call", other.put)
    c.put("w/call", "after")
    assert other.get(timeout=PATIENCE).events[0].value == b"after"
    assert got.empty()


def watch_compacted(c):
    c.put("w/old", "v")
    _, meta = c.get("w/old")
    c.put("w/old", "w")
    c.put("w/old", "x")
    c.compact(meta.mod_revision + 1, physical=True)
    got = queue.Queue()
    c.add_watch_callback("w/old", got.put, start_revision=meta.mod_revision)
    error = got.get(timeout=PATIENCE)
    assert isinstance(error, etcd3.exceptions.RevisionCompactedError)
    assert error.compacted_revision == meta.mod_revision + 1


def many_watches(c):
    got = queue.Queue()
    for i in range(200):
        c.add_watch_callback(f"w/many/{i}", got.put)
    for i in range(200):
        c.put(f"w/many/{i}", str(i))
    values = sorted(int(got.get(timeout=PATIENCE).events[0].value) for _ in range(200))
    assert values == list(range(200))


def lease_ends(c):
    events, cancel = c.watch("l/ends")
    start = time.monotonic()
    lease = c.lease(8)
    assert lease.granted_ttl == 8
    c.put("l/ends", "v", lease)
    assert lease.keys == [b"l/ends"] and 0 < lease.remaining_ttl <= 8
    assert isinstance(told(events, 2)[1], etcd3.events.DeleteEvent)
    assert time.monotonic() - start >= 8
    cancel()
    assert c.get("l/ends")[0] is None


def lease_kept(c):
    lease = c.lease(6)
    c.put("l/kept", "v", lease)
    for _ in range(8):
        time.sleep(1)
        assert [r.TTL for r in lease.refresh()] == [6]
    assert c.get("l/kept")[0] == b"v"
    lease.revoke()
    assert c.get("l/kept")[0] is None
    assert [r.TTL for r in lease.refresh()] == [0]


def locks(c):
    """The package's lock, of a lease and transactions. Its waiting fails with today's tenacity."""
    with c.lock("lock", ttl=10) as lock:
        assert lock.is_acquired()
    again = c.lock("lock", ttl=30)
    assert again.acquire(timeout=PATIENCE)
    again.refresh()
    assert again.release()


ALL = [
    watch_key,
    watch_past,
    watch_once,
    watch_callback,
    watch_compacted,
    many_watches,
    lease_ends,
    lease_kept,
    locks,
]

if __name__ == "__main__":
    {f.__name__: f for f in ALL}[sys.argv[1]](client(sys.argv[2]))

// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"cairn/tests/harness"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// watchTalk sends requests to one server's watch stream and collects what it says.
type watchTalk struct {
	c     *client
	watch *watchClient
	taken int
	said  []string
}

func (c *client) talk() *watchTalk {
	c.t.Helper()
	w, err := openWatch(c.conn)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(w.close)
	return &watchTalk{c: c, watch: w}
}

func (w *watchTalk) send(r *pb.WatchRequest) {
	w.c.t.Helper()
	if err := w.watch.stream.Send(r); err != nil {
		w.c.t.Fatal(err)
	}
}

func (w *watchTalk) create(r *pb.WatchCreateRequest) {
	w.c.t.Helper()
	w.send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: r}})
	w.hear(1)
}

func (w *watchTalk) cancel(id int64) { w.c.t.Helper(); w.send(cancelRequest(id)) }

func (w *watchTalk) progress() {
	w.c.t.Helper()
	w.send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}})
}

// hear takes so many responses.
func (w *watchTalk) hear(n int) {
	w.c.t.Helper()
	for ; n > 0; n-- {
		r, err := w.watch.wait(w.taken)
		if err != nil {
			w.c.t.Fatalf("%v, behind %s", err, strings.Join(w.said, "\n"))
		}
		w.taken++
		normalHeader(r)
		w.said = append(w.said, strings.ReplaceAll(brief(r), "  ", " "))
	}
}

// fence ends a talk whose watchers are of other keys: nothing may have come in between.
func (w *watchTalk) fence() {
	w.c.t.Helper()
	w.c.put("fence", "")
	w.create(&pb.WatchCreateRequest{Key: []byte("fence"), StartRevision: w.c.current(), WatchId: 99})
	w.hear(1)
}

// sameTalk has the same talk with etcd and with Cairn and compares what they say.
func sameTalk(t *testing.T, talk func(w *watchTalk)) {
	t.Helper()
	harness.CairnBin(t)
	var said [2][]string
	for i, kind := range []harness.Kind{harness.Etcd, harness.Cairn} {
		c := &client{t: t, server: harness.StartForTest(t, kind)}
		c.dial()
		w := c.talk()
		talk(w)
		said[i] = w.said
	}
	if !slices.Equal(said[0], said[1]) {
		t.Errorf("etcd:\n%s\ncairn:\n%s", strings.Join(said[0], "\n"), strings.Join(said[1], "\n"))
	}
}

// TestWatchIDOfNone gives a watcher the id that means none.
func TestWatchIDOfNone(t *testing.T) {
	sameTalk(t, func(w *watchTalk) {
		w.create(&pb.WatchCreateRequest{Key: []byte("a"), WatchId: -1})
		w.c.put("a", "1")
		w.hear(1)
		w.create(&pb.WatchCreateRequest{Key: []byte("b"), WatchId: -1})
		w.cancel(-1)
		w.hear(1)
		w.c.put("a", "2")
		w.fence()
	})
}

// TestWatchIDs goes through what etcd makes of ids: the next free one, skipped ones, those that come back.
func TestWatchIDs(t *testing.T) {
	sameTalk(t, func(w *watchTalk) {
		key := func(id int64) { w.create(&pb.WatchCreateRequest{Key: []byte("k"), WatchId: id}) }
		for _, id := range []int64{0, 0, 3, 0, 0, 2, 3, 5, 0} {
			key(id)
		}
		for _, id := range []int64{0, 4} {
			w.cancel(id)
			w.hear(1)
		}
		w.cancel(4) // Answered by nothing.
		for _, id := range []int64{0, 4, 4, 0} {
			key(id)
		}
		w.fence()
	})
}

// TestWatchCompactedID keeps a watcher that a compaction canceled: its id stays taken and no progress is told until the
// client cancels it too.
func TestWatchCompactedID(t *testing.T) {
	sameTalk(t, func(w *watchTalk) {
		for i := range 5 {
			w.c.put("a", fmt.Sprint(i))
		}
		w.c.compact(5)
		w.create(&pb.WatchCreateRequest{Key: []byte("a"), StartRevision: 2, WatchId: 8})
		w.hear(1)
		w.create(&pb.WatchCreateRequest{Key: []byte("a"), StartRevision: 6, WatchId: 9})
		w.hear(1)
		w.create(&pb.WatchCreateRequest{Key: []byte("a"), WatchId: 8})
		w.progress()
		w.cancel(8)
		w.hear(1)
		w.create(&pb.WatchCreateRequest{Key: []byte("a"), WatchId: 8})
		w.progress()
		w.hear(1)
		w.fence()
	})
}

// TestWatchKeysAndEnds goes through empty keys and ends.
func TestWatchKeysAndEnds(t *testing.T) {
	sameTalk(t, func(w *watchTalk) {
		for _, key := range []string{"\x00", "a", "b", "\xff"} {
			w.c.put(key, "v")
		}
		for _, x := range []struct{ key, end string }{
			{"", ""}, {"", "\x00"}, {"", "b"}, {"\x00", "\x00"}, {"a", "\x00"}, {"a", "a"}, {"b", "a"}, {"\xff", "\x00"},
			{"a", "\x00\x00"}, {"\x00", "\x00\x00"}, {"a", "a\x00"}, {"\xff\xff", "\x00"},
		} {
			before := w.taken
			w.create(&pb.WatchCreateRequest{Key: []byte(x.key), RangeEnd: []byte(x.end), StartRevision: 2})
			r, _ := w.watch.at(before)
			if !r.Canceled && x.key != "\xff\xff" {
				w.hear(1)
			}
		}
		w.create(&pb.WatchCreateRequest{StartRevision: -1, Key: []byte("b"), RangeEnd: []byte("a")})
		w.create(&pb.WatchCreateRequest{})
	})
}

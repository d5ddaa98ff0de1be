// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"cairn/tests/harness"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// A watchStream is a raw stream: it sees the responses as they are on the wire, and may ask for what no client would.
type watchStream struct {
	t      *testing.T
	base   int64 // Revisions are told relative to this one, so that two servers compare.
	client pb.WatchClient
	stream pb.Watch_WatchClient
	cancel context.CancelFunc
	said   []string
	// In the order in which they came; unread.
	responses chan *pb.WatchResponse
	ended     chan error
}

func openWatch(t *testing.T, conn *grpc.ClientConn, base int64, md ...string) *watchStream {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	if len(md) > 0 {
		ctx = metadata.AppendToOutgoingContext(ctx, md...)
	}
	w := &watchStream{t: t, base: base, client: pb.NewWatchClient(conn), cancel: cancel,
		responses: make(chan *pb.WatchResponse, 1<<16), ended: make(chan error, 1)}
	var err error
	w.stream, err = w.client.Watch(ctx, grpc.MaxCallRecvMsgSize(64<<20))
	must(t, err)
	go func() {
		for {
			r, err := w.stream.Recv()
			if err != nil {
				w.ended <- err
				return
			}
			w.responses <- r
		}
	}()
	return w
}

func (w *watchStream) send(r *pb.WatchRequest) {
	w.t.Helper()
	must(w.t, w.stream.Send(r))
}

func (w *watchStream) create(r *pb.WatchCreateRequest) {
	w.t.Helper()
	w.send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: r}})
}

func (w *watchStream) drop(id int64) {
	w.t.Helper()
	w.send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CancelRequest{
		CancelRequest: &pb.WatchCancelRequest{WatchId: id}}})
}

func (w *watchStream) progress() {
	w.t.Helper()
	w.send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}})
}

func (w *watchStream) rel(revision int64) string {
	if revision <= 0 {
		return fmt.Sprint(revision)
	}
	return fmt.Sprintf("%+d", revision-w.base)
}

func (w *watchStream) kv(kv *mvccpb.KeyValue) string {
	if kv == nil {
		return "-"
	}
	value := string(kv.Value)
	if len(value) > 20 {
		value = fmt.Sprintf("%d bytes", len(value))
	}
	return fmt.Sprintf("%q=%q created %s mod %s version %d lease %d", kv.Key, value, w.rel(kv.CreateRevision),
		w.rel(kv.ModRevision), kv.Version, kv.Lease)
}

func (w *watchStream) tell(r *pb.WatchResponse) string {
	var b strings.Builder
	fmt.Fprintf(&b, "id %d rev %s", r.WatchId, w.rel(r.Header.Revision))
	for _, flag := range []struct {
		on   bool
		name string
	}{{r.Created, "created"}, {r.Canceled, "canceled"}, {r.Fragment, "fragment"}} {
		if flag.on {
			b.WriteString(" " + flag.name)
		}
	}
	if r.CompactRevision != 0 {
		fmt.Fprintf(&b, " compacted %s", w.rel(r.CompactRevision))
	}
	if r.CancelReason != "" {
		fmt.Fprintf(&b, " because %q", r.CancelReason)
	}
	for _, e := range r.Events {
		fmt.Fprintf(&b, "\n    %s %s prev %s", e.Type, w.kv(e.Kv), w.kv(e.PrevKv))
	}
	return b.String()
}

func (w *watchStream) next() *pb.WatchResponse {
	w.t.Helper()
	select {
	case r := <-w.responses:
		return r
	case err := <-w.ended:
		w.t.Fatalf("the stream ended: %v; before: %s", err, strings.Join(w.said, "\n"))
	case <-time.After(20 * time.Second):
		w.t.Fatalf("nothing came; before: %s", strings.Join(w.said, "\n"))
	}
	return nil
}

// expect reads n responses and remembers them.
func (w *watchStream) expect(n int) {
	w.t.Helper()
	for i := 0; i < n; i++ {
		w.said = append(w.said, w.tell(w.next()))
	}
}

// events reads until there were n of them, however they are spread over responses, and remembers them.
func (w *watchStream) events(n int) {
	w.t.Helper()
	for n > 0 {
		r := w.next()
		n -= len(r.Events)
		for _, e := range r.Events {
			w.said = append(w.said, fmt.Sprintf("id %d: %s %s prev %s", r.WatchId, e.Type, w.kv(e.Kv), w.kv(e.PrevKv)))
		}
	}
}

// end waits for the end of the stream and remembers how it came.
func (w *watchStream) end() {
	w.t.Helper()
	select {
	case err := <-w.ended:
		w.said = append(w.said, fmt.Sprintf("end: %s %q", status.Code(err), status.Convert(err).Message()))
	case <-time.After(20 * time.Second):
		w.t.Fatal("the stream did not end")
	}
}

// nothing asks for the stream's progress on a watcher of its own, as a proof that nothing else was on its way.
func (w *watchStream) nothing() {
	w.t.Helper()
	w.progress()
	w.expect(1)
}

// A watchWorld is a server with what a scenario needs.
type watchWorld struct {
	t    *testing.T
	s    *harness.Server
	conn *grpc.ClientConn
	c    *clientv3.Client
	ctx  context.Context
	base int64
}

func (x *watchWorld) open(md ...string) *watchStream { return openWatch(x.t, x.conn, x.base, md...) }

func (x *watchWorld) put(key, value string) int64 {
	x.t.Helper()
	r, err := x.c.Put(x.ctx, key, value)
	must(x.t, err)
	return r.Header.Revision
}

func (x *watchWorld) del(key string, opts ...clientv3.OpOption) {
	x.t.Helper()
	_, err := x.c.Delete(x.ctx, key, opts...)
	must(x.t, err)
}

// sameStory runs a scenario against etcd and Cairn; what it tells must be equal.
func sameStory(t *testing.T, scenario func(x *watchWorld) []string, args ...string) {
	t.Helper()
	stories := map[harness.Kind][]string{}
	for _, kind := range []harness.Kind{harness.Etcd, harness.Cairn} {
		s := harness.StartForTest(t, kind, args...)
		conn, err := s.Dial()
		must(t, err)
		t.Cleanup(func() { conn.Close() })
		x := &watchWorld{t: t, s: s, conn: conn, c: newClient(t, s), ctx: harness.Context(t, time.Minute)}
		x.base = x.put("base", "")
		stories[kind] = scenario(x)
	}
	want, have := stories[harness.Etcd], stories[harness.Cairn]
	for i := 0; i < max(len(want), len(have)); i++ {
		a, b := "(nothing)", "(nothing)"
		if i < len(want) {
			a = want[i]
		}
		if i < len(have) {
			b = have[i]
		}
		if a != b {
			t.Fatalf("step %d\netcd:  %s\ncairn: %s", i, a, b)
		}
	}
	if len(want) == 0 {
		t.Fatal("the scenario tells nothing")
	}
}

func TestWatchOptions(t *testing.T) {
	sameStory(t, func(x *watchWorld) []string {
		w := x.open()
		for _, r := range []*pb.WatchCreateRequest{
			{Key: []byte("k1")},
			{Key: []byte("k"), RangeEnd: []byte("l"), PrevKv: true},
			{Key: []byte("k1"), RangeEnd: []byte{0}},
			{Key: []byte{0}, RangeEnd: []byte{0}, Filters: []pb.WatchCreateRequest_FilterType{pb.WatchCreateRequest_NOPUT}},
			{Key: []byte("k1"), Filters: []pb.WatchCreateRequest_FilterType{pb.WatchCreateRequest_NODELETE}},
			{Key: []byte("k1"), Filters: []pb.WatchCreateRequest_FilterType{
				pb.WatchCreateRequest_NOPUT, pb.WatchCreateRequest_NODELETE}},
			{Key: []byte("k1"), Filters: []pb.WatchCreateRequest_FilterType{7, 1 << 30, -1}},
			{},
			{RangeEnd: []byte{0}},
		} {
			w.create(r)
			w.expect(1)
		}
		// One watcher at a time: in which order those of one revision come is up to the server.
		collect := func(n int) {
			var said []string
			for i := 0; i < n; i++ {
				said = append(said, w.tell(w.next()))
			}
			slices.Sort(said)
			w.said = append(w.said, said...)
		}
		x.put("k1", "a")
		collect(6)
		x.put("k1", "b")
		collect(6)
		x.put("k2", "c")
		collect(3)
		x.del("k1")
		collect(6)
		_, err := x.c.Txn(x.ctx).Then(clientv3.OpPut("k1", "1"), clientv3.OpPut("k3", "2"), clientv3.OpDelete("k2"),
			clientv3.OpPut("k4", "3")).Commit()
		must(t, err)
		collect(7)
		w.nothing()
		return w.said
	})
}

func TestWatchHistory(t *testing.T) {
	sameStory(t, func(x *watchWorld) []string {
		for i := 0; i < 20; i++ {
			x.put(fmt.Sprintf("h%d", i%3), fmt.Sprint(i))
		}
		x.del("h1")
		w := x.open()
		for _, start := range []int64{x.base + 1, x.base + 10, x.base + 21, x.base + 22, x.base + 30} {
			for _, prev := range []bool{false, true} {
				w.create(&pb.WatchCreateRequest{Key: []byte("h"), RangeEnd: []byte("i"), StartRevision: start, PrevKv: prev})
				w.expect(1)
				if n := int(x.base + 22 - start); n > 0 {
					w.events(n)
				}
			}
		}
		for i := 0; i < 10; i++ {
			x.put("h2", "later")
		}
		// Six of the past, two of base+22, two of base+30 each; sorted, because they belong to different watchers.
		n := len(w.said)
		w.events(8*10 + 2*2)
		slices.Sort(w.said[n:])
		return w.said
	})
}

func TestWatchIDs(t *testing.T) {
	sameStory(t, func(x *watchWorld) []string {
		w := x.open()
		for _, id := range []int64{0, 0, 7, 7, 2, 0, 0, -5, -1, 1 << 62, 7} {
			w.create(&pb.WatchCreateRequest{Key: []byte("k"), WatchId: id})
			w.expect(1)
		}
		for _, id := range []int64{7, 7, 12345, -1, -2, -5, 0} {
			w.drop(id)
		}
		w.create(&pb.WatchCreateRequest{Key: []byte("z"), WatchId: 7})
		w.expect(5)
		w.create(&pb.WatchCreateRequest{Key: []byte("z")})
		w.expect(1)
		return w.said
	})
}

func TestWatchBadRequests(t *testing.T) {
	sameStory(t, func(x *watchWorld) []string {
		w := x.open()
		w.send(&pb.WatchRequest{})
		for _, r := range []*pb.WatchCreateRequest{
			{Key: []byte("b"), RangeEnd: []byte("a")},
			{Key: []byte("b"), RangeEnd: []byte("b")},
			{Key: []byte("b"), StartRevision: -1},
			{Key: []byte("b"), StartRevision: -1 << 63, WatchId: 9},
			{Key: []byte("b"), RangeEnd: []byte("a"), StartRevision: -1},
			{Key: []byte("b"), WatchId: 9},
			{Key: []byte("b"), WatchId: 9, RangeEnd: []byte("a")},
			{Key: []byte("b"), WatchId: 9, RangeEnd: []byte("c")},
			{Key: []byte("b"), StartRevision: 1<<63 - 1},
			{Key: []byte("b"), StartRevision: 1},
		} {
			w.create(r)
			w.expect(1)
		}
		x.put("b", "1")
		w.events(2)
		slices.Sort(w.said[len(w.said)-2:])
		w.drop(12345)
		w.create(&pb.WatchCreateRequest{Key: []byte("end")})
		w.expect(1)
		return w.said
	})
}

func TestWatchCompacted(t *testing.T) {
	sameStory(t, func(x *watchWorld) []string {
		for i := 0; i < 10; i++ {
			x.put("k", fmt.Sprint(i))
		}
		early := x.open()
		early.create(&pb.WatchCreateRequest{Key: []byte("k"), StartRevision: x.base + 1000})
		early.expect(1)
		_, err := x.c.Compact(x.ctx, x.base+5)
		must(t, err)
		w := x.open()
		for _, start := range []int64{x.base + 4, x.base + 5, 1} {
			w.create(&pb.WatchCreateRequest{Key: []byte("k"), StartRevision: start})
			w.expect(2)
		}
		w.create(&pb.WatchCreateRequest{Key: []byte("k"), StartRevision: x.base + 6, PrevKv: true})
		w.expect(1)
		w.events(5)
		// The id of a watcher that was canceled is free again, when the client has said that it knows.
		w.drop(0)
		w.create(&pb.WatchCreateRequest{Key: []byte("other"), WatchId: 2})
		w.create(&pb.WatchCreateRequest{Key: []byte("other"), WatchId: 3})
		w.expect(2)
		return append(early.said, w.said...)
	})
}

func TestWatchProgress(t *testing.T) {
	sameStory(t, func(x *watchWorld) []string {
		w := x.open()
		// Nothing is said while there is no watcher, or one that waits for a revision to come.
		w.progress()
		w.create(&pb.WatchCreateRequest{Key: []byte("k")})
		w.expect(1)
		w.progress()
		w.expect(1)
		w.create(&pb.WatchCreateRequest{Key: []byte("l"), StartRevision: x.base + 1})
		w.progress()
		w.create(&pb.WatchCreateRequest{Key: []byte("m")})
		w.expect(2)
		x.put("unseen", "1")
		w.progress()
		w.expect(1)
		for i := 0; i < 5; i++ {
			x.put("k", "v")
			w.expect(1)
			w.progress()
			w.expect(1)
		}
		return w.said
	})
}

// With an interval each watcher that asked for it hears from time to time that nothing has happened.
func TestWatchProgressNotify(t *testing.T) {
	sameStory(t, func(x *watchWorld) []string {
		w := x.open()
		w.create(&pb.WatchCreateRequest{Key: []byte("k"), ProgressNotify: true, WatchId: 5})
		w.create(&pb.WatchCreateRequest{Key: []byte("k"), WatchId: 6})
		notified := func(r *pb.WatchResponse) {
			if r.WatchId != 5 || len(r.Events) != 0 || r.Created || r.Canceled {
				t.Errorf("%s: a notification was expected: %s", x.s.Kind, w.tell(r))
			}
		}
		for len(w.said) < 2 { // One may hear of nothing before the other is created.
			if r := w.next(); r.Created {
				w.said = append(w.said, w.tell(r))
			} else {
				notified(r)
			}
		}
		x.put("unseen", "1")
		for range 3 {
			notified(w.next())
		}
		w.said = append(w.said, "three of them")
		return w.said
	}, "--watch-progress-notify-interval=200ms")
}

func TestWatchFragment(t *testing.T) {
	sameStory(t, func(x *watchWorld) []string {
		big := strings.Repeat("x", 1000*1000)
		whole, parts := x.open(), x.open()
		r := &pb.WatchCreateRequest{Key: []byte("f"), RangeEnd: []byte("g"), StartRevision: x.base + 1}
		whole.create(r)
		r.Fragment = true
		parts.create(r)
		whole.expect(1)
		parts.expect(1)
		for i := 0; i < 3; i++ {
			x.put(fmt.Sprintf("f%d", i), big)
		}
		whole.events(3)
		parts.events(3)
		x.del("f", clientv3.WithPrefix())
		whole.events(3)
		parts.events(3)
		// From history: how many revisions come together is up to the server.
		late := x.open()
		r.PrevKv = true
		late.create(r)
		late.expect(1)
		late.events(6)
		return append(append(whole.said, parts.said...), late.said...)
	})
}

func TestWatchEndOfStream(t *testing.T) {
	sameStory(t, func(x *watchWorld) []string {
		// Who has half-closed still listens.
		half := x.open()
		half.create(&pb.WatchCreateRequest{Key: []byte("k")})
		must(t, half.stream.CloseSend())
		half.expect(1)
		for i := 0; i < 3; i++ {
			x.put("k", fmt.Sprint(i))
			half.expect(1)
		}
		half.cancel()
		half.end()
		// A version that is no text is refused, a leader is there.
		odd := x.open("hasleader", "true")
		odd.create(&pb.WatchCreateRequest{Key: []byte("k")})
		odd.expect(1)
		odd.cancel()
		odd.end()
		return append(half.said, odd.said...)
	})
}

// rawStream sends messages that are none.
func rawStream(t *testing.T, conn *grpc.ClientConn, method string, messages ...[]byte) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	s, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, method,
		grpc.ForceCodec(bytesCodec{}))
	must(t, err)
	for _, m := range messages {
		if err := s.SendMsg(rawBytes(m)); err != nil && err != io.EOF {
			return "send: " + err.Error()
		}
	}
	must(t, s.CloseSend())
	var got rawBytes
	for {
		if err := s.RecvMsg(&got); err != nil {
			// Go's protobuf uses now one kind of space, now another, so that nobody relies on its texts.
			text := strings.ReplaceAll(status.Convert(err).Message(), "\u00a0", " ")
			return fmt.Sprintf("%s %q", status.Code(err), text)
		}
	}
}

func TestStreamGarbage(t *testing.T) {
	sameStory(t, func(x *watchWorld) []string {
		var said []string
		long := make([]byte, 1536*1024+512*1024+1)
		for _, m := range []string{"/etcdserverpb.Watch/Watch", "/etcdserverpb.Lease/LeaseKeepAlive"} {
			for _, bad := range [][]byte{{0xFF}, {0x0A, 9, 'k'}, {0x0A, 0x80}, {0x0A, 2, 0x0A, 9}, {0}, long} {
				said = append(said, rawStream(t, x.conn, m, bad))
			}
			// One that is right first.
			said = append(said, rawStream(t, x.conn, m, []byte{}, []byte{0x1A, 0}, []byte{0x07}))
		}
		serves(t, x.s)
		return said
	})
}

func TestWatchHostile(t *testing.T) {
	sameStory(t, func(x *watchWorld) []string {
		w := x.open()
		big := make([]byte, 1<<19)
		w.create(&pb.WatchCreateRequest{Key: big, RangeEnd: big, WatchId: 1})
		w.create(&pb.WatchCreateRequest{Key: big, WatchId: 2})
		w.create(&pb.WatchCreateRequest{Key: []byte("k"), Filters: make([]pb.WatchCreateRequest_FilterType, 100000), WatchId: 3})
		w.expect(3)
		x.put("k", "v")
		x.del("k")
		w.expect(1)
		return w.said
	})
}

const manyWatches = 100000

// A hundred thousand watchers on one stream: each is created, a key of one of them reaches that one. With the stream they
// go, and Cairn's memory is again what it was: it goes back to the system by jemalloc's clock, which is made to run faster.
func TestWatchManyOnOneStream(t *testing.T) {
	t.Setenv("MALLOC_CONF", "dirty_decay_ms:500,muzzy_decay_ms:500")
	sameStory(t, func(x *watchWorld) []string {
		before := residentKiB(t, x.s)
		if x.s.Kind == harness.Cairn { // The first ones leave caches behind.
			openMany(x).cancel()
			waitSynced(x.ctx, t, x.s, 0)
			before = returns(t, x.s, before, 22*1024)
		}
		w := openMany(x)
		for i := 0; i < manyWatches; i += 9999 {
			x.put(fmt.Sprintf("m%06d", i), "here")
			w.expect(1)
		}
		w.nothing()
		w.cancel()
		w.end()
		waitSynced(x.ctx, t, x.s, 0)
		if x.s.Kind == harness.Cairn {
			returns(t, x.s, before, 5*1024)
		}
		return w.said
	})
}

func openMany(x *watchWorld) *watchStream {
	x.t.Helper()
	w := x.open()
	go func() {
		for i := 0; i < manyWatches; i++ {
			if w.stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{
				CreateRequest: &pb.WatchCreateRequest{Key: fmt.Appendf(nil, "m%06d", i)}}}) != nil {
				return
			}
		}
	}()
	for i := 0; i < manyWatches; i++ {
		if r := w.next(); !r.Created || r.WatchId != int64(i) {
			x.t.Fatalf("%s: watcher %d: %s", x.s.Kind, i, w.tell(r))
		}
	}
	return w
}

// returns waits until a server that has no watchers any more holds no more than it did before, and a little.
func returns(t *testing.T, s *harness.Server, before, keptMaxKiB int) (after int) {
	t.Helper()
	held := residentKiB(t, s)
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if after = residentKiB(t, s); after <= before+keptMaxKiB {
			t.Logf("resident: %d KiB before, %d KiB with watchers, %d KiB after", before, held, after)
			return after
		}
		if time.Now().After(deadline) {
			t.Fatalf("resident: %d KiB before, %d KiB with watchers, %d KiB after", before, held, after)
		}
	}
}

func residentKiB(t *testing.T, s *harness.Server) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.Pid()))
	must(t, err)
	var kib int
	_, after, _ := strings.Cut(string(text), "VmRSS:")
	fmt.Sscan(after, &kib)
	return kib
}

// A hundred thousand streams that were opened and closed leave nothing behind.
func TestWatchManyStreams(t *testing.T) {
	const streams, atOnce, growthMaxKiB = 100000, 500, 24 * 1024
	s := harness.StartForTest(t, harness.Cairn)
	conn, err := s.Dial()
	must(t, err)
	defer conn.Close()
	client := pb.NewWatchClient(conn)
	before := 0
	for n := 0; n < streams; n += atOnce {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		for i := 0; i < atOnce; i++ {
			w, err := client.Watch(ctx)
			must(t, err)
			must(t, w.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{
				CreateRequest: &pb.WatchCreateRequest{Key: []byte("k"), RangeEnd: []byte("l")}}}))
			if i%7 == 0 {
				_, err = w.Recv()
				must(t, err)
			}
		}
		cancel()
		if n == streams/10 {
			before = residentKiB(t, s)
		}
	}
	serves(t, s)
	deadline := time.Now().Add(30 * time.Second)
	for residentKiB(t, s) > before+growthMaxKiB {
		if time.Now().After(deadline) {
			t.Fatalf("%d KiB after %d streams, %d KiB after %d", residentKiB(t, s), streams, before, streams/10)
		}
		serves(t, s)
	}
	t.Logf("resident: %d KiB after %d streams, %d KiB at the end", before, streams/10, residentKiB(t, s))
}

// Streams that are never read hold no more than their share, and hinder nobody.
func TestWatchNeverRead(t *testing.T) {
	const streams, puts, growthMaxKiB = 200, 400, 200 * 1024
	s := harness.StartForTest(t, harness.Cairn)
	c, ctx := newClient(t, s), harness.Context(t, 2*time.Minute)
	value := strings.Repeat("v", 32*1024)
	before := residentKiB(t, s)
	for i := 0; i < streams; i++ {
		conn, err := s.Dial(grpc.WithInitialWindowSize(65535), grpc.WithInitialConnWindowSize(65535))
		must(t, err)
		defer conn.Close()
		w, err := pb.NewWatchClient(conn).Watch(ctx)
		must(t, err)
		must(t, w.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{
			CreateRequest: &pb.WatchCreateRequest{Key: []byte("k"), PrevKv: true}}}))
	}
	for i := 0; i < puts; i++ {
		_, err := c.Put(ctx, "k", value)
		must(t, err)
	}
	if after := residentKiB(t, s); after > before+growthMaxKiB {
		t.Errorf("%d KiB with %d streams that are not read, %d KiB without", after, streams, before)
	} else {
		t.Logf("resident: %d KiB with, %d KiB without", after, before)
	}
	serves(t, s)
}

// putTogether puts n values of a size, many at a time.
func putTogether(ctx context.Context, c *clientv3.Client, n, size int) error {
	const at = 16
	value, done := strings.Repeat("v", size), make(chan error, at)
	for w := 0; w < at; w++ {
		go func() {
			for i := w; i < n; i += at {
				if _, err := c.Put(ctx, fmt.Sprintf("k%06d", i), value); err != nil {
					done <- err
					return
				}
			}
			done <- nil
		}()
	}
	var failed error
	for w := 0; w < at; w++ {
		if err := <-done; err != nil {
			failed = err
		}
	}
	return failed
}

// Streams that are never read and have megabytes to get: all together hold what the hub allows, 64 MiB in its queues and
// 64 MiB in gRPC's hands, beside a little each; who reads gets everything meanwhile, and the memory comes back.
func TestWatchNeverReadBehind(t *testing.T) {
	const streams, puts, size, budgetKiB, eachKiB = 400, 4000, 7500, 2 * 64 << 10, 100
	s := harness.StartForTest(t, harness.Cairn)
	c, ctx := newClient(t, s), harness.Context(t, 2*time.Minute)
	first := c.Watch(ctx, "other") // From now on recent events are kept.
	must(t, putTogether(ctx, c, puts, size))
	before := residentKiB(t, s)
	reading, cancel := context.WithCancel(ctx)
	for i := 0; i < streams; i++ {
		conn, err := s.Dial(grpc.WithInitialWindowSize(65535), grpc.WithInitialConnWindowSize(65535))
		must(t, err)
		defer conn.Close()
		w, err := pb.NewWatchClient(conn).Watch(reading)
		must(t, err)
		must(t, w.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{
			CreateRequest: &pb.WatchCreateRequest{Key: []byte("k"), RangeEnd: []byte("l"), StartRevision: 2}}}))
	}
	got := 0
	for r := range c.Watch(ctx, "k", clientv3.WithPrefix(), clientv3.WithRev(2)) {
		must(t, r.Err())
		if got += len(r.Events); got == puts {
			break
		}
	}
	held := residentKiB(t, s)
	if held > before+budgetKiB+streams*eachKiB {
		t.Errorf("%d KiB with %d streams that are not read, %d KiB without", held, streams, before)
	}
	cancel()
	serves(t, s)
	for deadline := time.Now().Add(time.Minute); residentKiB(t, s) > before+(held-before)/2; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d KiB a minute after they were closed, %d KiB with them, %d KiB before", residentKiB(t, s), held, before)
		}
	}
	t.Logf("resident: %d KiB without, %d KiB with, %d KiB after", before, held, residentKiB(t, s))
	select {
	case r := <-first:
		t.Errorf("a watcher of another key got %v", r)
	default:
	}
}

// openLed opens a stream that wants a leader, with a watcher; again as long as there happens to be none.
func openLed(t *testing.T, conn *grpc.ClientConn) *watchStream {
	t.Helper()
	var err error
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		w := openWatch(t, conn, 0, "hasleader", "true")
		// What a Send that fails means is what the end of the stream says.
		_ = w.stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{
			CreateRequest: &pb.WatchCreateRequest{Key: []byte("k")}}})
		select {
		case <-w.responses:
			return w
		case err = <-w.ended:
		}
	}
	t.Fatalf("no stream that wants a leader stays open: %v", err)
	return nil
}

// Without a leader a stream that wants one is refused, and one that is open ends; others stay.
func TestStreamNeedsLeader(t *testing.T) {
	stories := map[harness.Kind][]string{}
	for _, kind := range []harness.Kind{harness.Etcd, harness.Cairn} {
		c := harness.StartCluster(t, []harness.Kind{kind, kind, kind}, "--heartbeat-interval=50", "--election-timeout=500")
		survivor := c.Members[0]
		with, without := openLed(t, survivor.Conn), openWatch(t, survivor.Conn, 0)
		without.create(&pb.WatchCreateRequest{Key: []byte("k")})
		without.next()
		ctx := metadata.AppendToOutgoingContext(harness.Context(t, time.Minute), "hasleader", "true")
		lease, err := pb.NewLeaseClient(survivor.Conn).LeaseKeepAlive(ctx)
		must(t, err)
		c.Kill(c.Members[1])
		c.Kill(c.Members[2])
		with.end()
		_, err = lease.Recv()
		late := openWatch(t, survivor.Conn, 0, "hasleader", "true")
		late.end()
		stories[kind] = append(with.said, status.Convert(err).Message(), late.said[0])
		without.create(&pb.WatchCreateRequest{Key: []byte("k")})
		if r := without.next(); !r.Created {
			t.Errorf("%s: the stream that needs no leader: %s", kind, without.tell(r))
		}
	}
	if want, have := fmt.Sprint(stories[harness.Etcd]), fmt.Sprint(stories[harness.Cairn]); want != have {
		t.Errorf("etcd:  %s\ncairn: %s", want, have)
	} else {
		t.Log(want)
	}
}

// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cairn/tests/harness"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
)

const (
	loaders  = 64
	conns    = 8
	pageSize = 500
	seed     = 20261124
)

// figures are what one server needed.
type figures struct {
	objects                int
	bytes                  int64
	loadPerSecond, loadCPU float64
	listAll, listPods      time.Duration
	listStream             time.Duration
	slowestPage, countOnly time.Duration
	updatePerSecond        float64
	compact                time.Duration
	restart, killed        time.Duration
	rssLoaded, rssStarted  int64
	disk, diskCompacted    int64
}

// cluster is one server under this load.
type cluster struct {
	t      *testing.T
	server *harness.Server
	list   []object
	conns  []*grpc.ClientConn
	mods   []int64 // Mod revision of each object.
	gens   []int   // Generation of each object.
	lease  int64
	f      figures
}

func (c *cluster) must(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

func (c *cluster) dial() {
	c.hangUp()
	for range conns {
		conn, err := c.server.Dial()
		c.must(err)
		c.conns = append(c.conns, conn)
	}
}

func (c *cluster) hangUp() {
	for _, conn := range c.conns {
		conn.Close()
	}
	c.conns = nil
}

func (c *cluster) kv() pb.KVClient { return pb.NewKVClient(c.conns[0]) }

// parallel runs f for each index by many clients.
func (c *cluster) parallel(indexes []int, f func(kv pb.KVClient, i int) error) time.Duration {
	c.t.Helper()
	var next atomic.Int64
	var wg sync.WaitGroup
	errs := make(chan error, loaders)
	start := time.Now()
	for w := range loaders {
		kv := pb.NewKVClient(c.conns[w%len(c.conns)])
		wg.Add(1)
		go func() {
			defer wg.Done()
			for {
				n := int(next.Add(1) - 1)
				if n >= len(indexes) {
					return
				}
				if err := f(kv, indexes[n]); err != nil {
					errs <- err
					return
				}
			}
		}()
	}
	wg.Wait()
	select {
	case err := <-errs:
		c.t.Fatal(err)
	default:
	}
	return time.Since(start)
}

func modIs(key string, revision int64) *pb.Compare {
	return &pb.Compare{Key: []byte(key), Target: pb.Compare_MOD, Result: pb.Compare_EQUAL,
		TargetUnion: &pb.Compare_ModRevision{ModRevision: revision}}
}

func putOp(key string, value []byte, lease int64) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte(key), Value: value, Lease: lease}}}
}

func getOp(key string) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: []byte(key)}}}
}

func (c *cluster) leaseOf(i int) int64 {
	if c.list[i].lease {
		return c.lease
	}
	return 0
}

// load creates all objects as kube-apiserver does: if the key doesn't exist, put it.
func (c *cluster) load() {
	grant, err := pb.NewLeaseClient(c.conns[0]).LeaseGrant(context.Background(), &pb.LeaseGrantRequest{TTL: 3600})
	c.must(err)
	c.lease = grant.ID
	all := make([]int, len(c.list))
	for i := range all {
		all[i] = i
		c.f.bytes += int64(c.list[i].size)
	}
	before, err := harness.CPUTime(c.server.Pid())
	c.must(err)
	took := c.parallel(all, func(kv pb.KVClient, i int) error {
		o := &c.list[i]
		resp, err := kv.Txn(context.Background(), &pb.TxnRequest{
			Compare: []*pb.Compare{modIs(o.key, 0)},
			Success: []*pb.RequestOp{putOp(o.key, o.value(0), c.leaseOf(i))},
		})
		if err == nil && !resp.Succeeded {
			err = fmt.Errorf("%s existed already", o.key)
		}
		c.mods[i] = resp.GetHeader().GetRevision()
		return err
	})
	after, err := harness.CPUTime(c.server.Pid())
	c.must(err)
	c.f.loadPerSecond = float64(len(all)) / took.Seconds()
	c.f.loadCPU = (after - before).Seconds() * 1e6 / float64(len(all))
}

func prefixEnd(prefix string) []byte {
	end := []byte(prefix)
	end[len(end)-1]++
	return end
}

// pages lists a prefix as kube-apiserver does: pages of 500, all at the revision of the first, each beginning behind the
// last key of the one before. It checks the order and what every page says of the rest, and calls f for each object.
func (c *cluster) pages(prefix string, expected int, f func(key string, value []byte, mod int64)) (slowest time.Duration) {
	c.t.Helper()
	start, revision := []byte(prefix), int64(0)
	seen := 0
	for {
		begin := time.Now()
		resp, err := c.kv().Range(context.Background(), &pb.RangeRequest{
			Key: start, RangeEnd: prefixEnd(prefix), Limit: pageSize, Revision: revision})
		slowest = max(slowest, time.Since(begin))
		c.must(err)
		if revision == 0 {
			revision = resp.Header.Revision
		}
		if want := int64(expected - seen); resp.Count != want {
			c.t.Fatalf("%s: a page behind %d objects counts %d, want %d", prefix, seen, resp.Count, want)
		}
		for _, kv := range resp.Kvs {
			if bytes.Compare(kv.Key, start) < 0 {
				c.t.Fatalf("%s: %q comes after %q", prefix, kv.Key, start)
			}
			f(string(kv.Key), kv.Value, kv.ModRevision)
			start = append(append([]byte{}, kv.Key...), 0)
		}
		seen += len(resp.Kvs)
		if resp.More != (seen < expected) || (resp.More && len(resp.Kvs) != pageSize) {
			c.t.Fatalf("%s: page of %d, more %v, %d of %d seen", prefix, len(resp.Kvs), resp.More, seen, expected)
		}
		if !resp.More {
			return slowest
		}
	}
}

// count returns how many objects a prefix has.
func (c *cluster) count(prefix string) (n int) {
	for _, o := range c.list {
		if strings.HasPrefix(o.key, prefix) {
			n++
		}
	}
	return n
}

// verify lists everything and compares it with what was written.
func (c *cluster) verify(what string) {
	c.t.Helper()
	order := make([]int, len(c.list))
	for i := range order {
		order[i] = i
	}
	sort.Slice(order, func(a, b int) bool { return c.list[order[a]].key < c.list[order[b]].key })
	n := 0
	c.pages("/registry/", len(c.list), func(key string, value []byte, mod int64) {
		i := order[n]
		o := &c.list[i]
		if key != o.key || mod != c.mods[i] || !bytes.Equal(value, o.value(c.gens[i])) {
			c.t.Fatalf("%s: object %d is %s at %d with %d bytes, want %s at %d with generation %d", what, n, key, mod,
				len(value), o.key, c.mods[i], c.gens[i])
		}
		n++
	})
	for _, prefix := range []string{"/registry/pods/", "/registry/events/", "/registry/minions/", "/registry/none/"} {
		resp, err := c.kv().Range(context.Background(), &pb.RangeRequest{Key: []byte(prefix), RangeEnd: prefixEnd(prefix), CountOnly: true})
		c.must(err)
		if want := int64(c.count(prefix)); resp.Count != want {
			c.t.Fatalf("%s: %s has %d objects, want %d", what, prefix, resp.Count, want)
		}
	}
}

// lists times the lists of a starting kube-apiserver.
func (c *cluster) lists() {
	nothing := func(string, []byte, int64) {}
	start := time.Now()
	c.f.slowestPage = c.pages("/registry/", len(c.list), nothing)
	c.f.listAll = time.Since(start)
	start = time.Now()
	c.pages("/registry/pods/", c.count("/registry/pods/"), nothing)
	c.f.listPods = time.Since(start)

	start = time.Now()
	stream, err := c.kv().RangeStream(context.Background(), &pb.RangeRequest{Key: []byte("/registry/"), RangeEnd: prefixEnd("/registry/")})
	c.must(err)
	n, last := 0, (*pb.RangeResponse)(nil)
	for {
		m, err := stream.Recv()
		if err != nil {
			break
		}
		last = m.RangeResponse
		n += len(last.Kvs)
	}
	c.f.listStream = time.Since(start)
	if n != len(c.list) || last == nil || last.Count != int64(n) {
		c.t.Fatalf("RangeStream gave %d objects of %d", n, len(c.list))
	}
	start = time.Now()
	_, err = c.kv().Range(context.Background(), &pb.RangeRequest{Key: []byte("/registry/"), RangeEnd: prefixEnd("/registry/"), CountOnly: true})
	c.must(err)
	c.f.countOnly = time.Since(start)
}

// update changes a tenth of the objects as kube-apiserver does: if the key is still at the revision that was read, put
// it, else read it. One in twenty tries with an old revision and must get the object instead.
func (c *cluster) update() {
	var tenth []int
	for i := 0; i < len(c.list); i += 10 {
		tenth = append(tenth, i)
	}
	took := c.parallel(tenth, func(kv pb.KVClient, i int) error {
		o := &c.list[i]
		try := func(mod int64) (*pb.TxnResponse, error) {
			return kv.Txn(context.Background(), &pb.TxnRequest{
				Compare: []*pb.Compare{modIs(o.key, mod)},
				Success: []*pb.RequestOp{putOp(o.key, o.value(c.gens[i]+1), c.leaseOf(i))},
				Failure: []*pb.RequestOp{getOp(o.key)},
			})
		}
		if i%200 == 0 {
			resp, err := try(c.mods[i] - 1)
			if err != nil {
				return err
			}
			if got := resp.Responses[0].GetResponseRange(); resp.Succeeded || got == nil || got.Kvs[0].ModRevision != c.mods[i] {
				return fmt.Errorf("%s: an update from an old revision was not refused", o.key)
			}
		}
		resp, err := try(c.mods[i])
		if err == nil && !resp.Succeeded {
			err = fmt.Errorf("%s: an update from the right revision was refused", o.key)
		}
		if err == nil {
			c.mods[i], c.gens[i] = resp.Header.Revision, c.gens[i]+1
		}
		return err
	})
	c.f.updatePerSecond = float64(len(tenth)) / took.Seconds()
}

func (c *cluster) head() int64 {
	resp, err := c.kv().Range(context.Background(), &pb.RangeRequest{Key: []byte("none")})
	c.must(err)
	return resp.Header.Revision
}

func (c *cluster) start() time.Duration {
	begin := time.Now()
	c.must(c.server.StartReady())
	took := time.Since(begin)
	c.dial()
	return took
}

func (c *cluster) memory() int64 {
	m, err := harness.MemoryOf(c.server.Pid())
	c.must(err)
	return m.RSS
}

// run takes a server through the life of a data set.
func run(t *testing.T, kind harness.Kind, list []object) figures {
	c := &cluster{t: t, server: harness.NewForTest(t, kind, "--quota-backend-bytes=8589934592"), list: list,
		mods: make([]int64, len(list)), gens: make([]int, len(list))}
	c.f.objects = len(list)
	c.start()
	defer c.hangUp()
	c.load()
	c.f.rssLoaded = c.memory()
	c.f.disk = harness.DiskUsage(c.server.DataDir())
	c.verify("after loading")
	pinned := c.head()
	c.lists()
	c.update()
	c.verify("after updating")
	c.pinned(pinned)

	begin := time.Now()
	head := c.head()
	_, err := c.kv().Compact(context.Background(), &pb.CompactionRequest{Revision: head, Physical: true})
	c.must(err)
	c.f.compact = time.Since(begin)
	c.verify("after compacting")
	if _, err := c.kv().Range(context.Background(), &pb.RangeRequest{Key: []byte("a"), Revision: pinned}); err == nil {
		t.Error("a compacted revision could be read")
	}
	_, err = pb.NewMaintenanceClient(c.conns[0]).Defragment(context.Background(), &pb.DefragmentRequest{})
	c.must(err)
	c.f.diskCompacted = harness.DiskUsage(c.server.DataDir())

	_, err = c.server.Terminate()
	c.must(err)
	c.f.restart = c.start()
	c.verify("after a restart")
	c.update()
	c.must(c.server.Kill9())
	c.f.killed = c.start()
	c.verify("after a kill")
	c.f.rssStarted = c.memory()
	return c.f
}

// pinned reads a page and a count at an older revision while newer ones exist: the old content must come.
func (c *cluster) pinned(revision int64) {
	c.t.Helper()
	resp, err := c.kv().Range(context.Background(), &pb.RangeRequest{Key: []byte("/registry/"), RangeEnd: prefixEnd("/registry/"),
		Limit: pageSize, Revision: revision})
	c.must(err)
	if resp.Count != int64(len(c.list)) {
		c.t.Errorf("count at the pinned revision: %d", resp.Count)
	}
	for _, kv := range resp.Kvs {
		if kv.ModRevision > revision || kv.Version != 1 {
			c.t.Errorf("%s at revision %d has mod revision %d", kv.Key, revision, kv.ModRevision)
		}
	}
}

func (f figures) print(t *testing.T, kind harness.Kind) {
	mib := func(n int64) float64 { return float64(n) / (1 << 20) }
	t.Logf("%s: %d objects, %.0f MiB: load %.0f/s at %.0f us of server CPU; list all %v, pods %v, slowest page %v, "+
		"RangeStream %v, count %v; update %.0f/s; compact %v; ready after restart %v, after kill -9 %v; "+
		"resident %.0f MiB loaded, %.0f MiB after the restarts; disk %.0f MiB, %.0f MiB compacted",
		kind, f.objects, mib(f.bytes), f.loadPerSecond, f.loadCPU, f.listAll.Round(time.Millisecond),
		f.listPods.Round(time.Millisecond), f.slowestPage.Round(100*time.Microsecond), f.listStream.Round(time.Millisecond),
		f.countOnly.Round(10*time.Microsecond), f.updatePerSecond, f.compact.Round(time.Millisecond),
		f.restart.Round(time.Millisecond), f.killed.Round(time.Millisecond), mib(f.rssLoaded), mib(f.rssStarted), mib(f.disk),
		mib(f.diskCompacted))
}

// TestKubernetes runs the data set of CAIRN_OBJECTS objects (10,000; 100,000 for the figures in the README). With
// CAIRN_COMPARE=1 etcd runs it too.
func TestKubernetes(t *testing.T) {
	harness.CairnBin(t)
	list := objects(seed, harness.EnvInt("CAIRN_OBJECTS", 10000))
	run(t, harness.Cairn, list).print(t, harness.Cairn)
	if os.Getenv("CAIRN_COMPARE") == "1" {
		run(t, harness.Etcd, list).print(t, harness.Etcd)
	}
}

// TestObjects checks that the data set is what it is said to be: the same for a seed, and of the promised sizes.
func TestObjects(t *testing.T) {
	a, b := objects(1, 5000), objects(1, 5000)
	sizes := make([]int, len(a))
	for i := range a {
		if a[i] != b[i] || !bytes.Equal(a[i].value(3), b[i].value(3)) {
			t.Fatal("one seed gave two data sets")
		}
		if n := len(a[i].value(0)); n != a[i].size || n < objectBytesMin || n > objectBytesMax {
			t.Fatalf("object %d has %d bytes", i, n)
		}
		if bytes.Equal(a[i].value(0), a[i].value(1)) {
			t.Fatal("two generations are equal")
		}
		sizes[i] = a[i].size
	}
	sort.Ints(sizes)
	if median := sizes[len(sizes)/2]; median < 1000 || median > 4000 {
		t.Errorf("the median object has %d bytes", median)
	}
}

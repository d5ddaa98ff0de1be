// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"cairn/tests/harness"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
)

const (
	leaseTTL       = 24 * 3600
	renewStreams   = 64
	renewBurst     = 100 // What a client with many leases sends at once: all that are due, each half second.
	expiringMax    = 10000
	expireIn       = 15 * time.Second
	expirePatience = 5 * time.Minute
)

// leaseFigures are what the lease scenario finds out about one server.
type leaseFigures struct {
	grantRate, grantCPU float64
	renewRate, renewCPU float64 // One keep-alive under way on each stream.
	burstRate, burstCPU float64 // So many at once.
	before, after       harness.Memory
	idle, meantime      latency
	early, late         time.Duration // Of the keys that went first and last, against their time.
	span                time.Duration // From the first key that went to the last.
}

// lease grants leases by the million, keeps them alive, and lets some thousand end in one second.
func (c *config) lease(out *table) error {
	var got [2]leaseFigures
	for i, kind := range c.kinds() {
		if err := c.leaseOne(kind, &got[i]); err != nil {
			return fmt.Errorf("%s: %w", kind, err)
		}
	}
	e, k := got[0], got[1]
	out.start(fmt.Sprintf("%d leases", c.leases), "etcd", "Cairn", "ratio")
	row := func(name, format string, a, b float64) {
		out.add(name, fmt.Sprintf(format, a), fmt.Sprintf(format, b), times(b, a))
	}
	grown := func(f leaseFigures) float64 { return float64(f.after.RSS-f.before.RSS) / (1 << 20) }
	ms := func(d time.Duration) float64 { return d.Seconds() * 1e3 }
	row("grants/s", "%.0f", e.grantRate, k.grantRate)
	row("server us per grant", "%.1f", e.grantCPU, k.grantCPU)
	row("keep-alives/s", "%.0f", e.renewRate, k.renewRate)
	row("server us per keep-alive", "%.1f", e.renewCPU, k.renewCPU)
	row(fmt.Sprintf("keep-alives/s, %d at once", renewBurst), "%.0f", e.burstRate, k.burstRate)
	row(fmt.Sprintf("server us per keep-alive, %d at once", renewBurst), "%.1f", e.burstCPU, k.burstCPU)
	row("resident MiB with all leases", "%.0f", float64(e.after.RSS)/(1<<20), float64(k.after.RSS)/(1<<20))
	row("resident MiB more than without", "%.0f", grown(e), grown(k))
	row("put p99 ms, idle", "%.2f", ms(e.idle.p99), ms(k.idle.p99))
	row(fmt.Sprintf("put p99 ms, %d leases expire", c.expiring()), "%.2f", ms(e.meantime.p99), ms(k.meantime.p99))
	row("p99 while they expire : idle", "%.2f", ratio(e.meantime, e.idle), ratio(k.meantime, k.idle))
	row("first key gone, s after its time", "%.2f", e.early.Seconds(), k.early.Seconds())
	row("last key gone, s after its time", "%.2f", e.late.Seconds(), k.late.Seconds())
	row("from the first to the last, s", "%.2f", e.span.Seconds(), k.span.Seconds())
	out.end()
	return nil
}

func (c *config) expiring() int { return min(expiringMax, c.leases) }

func (c *config) leaseOne(kind harness.Kind, f *leaseFigures) error {
	s, err := c.single(kind, "lease")
	if err != nil {
		return err
	}
	defer s.Close()
	conns, err := dialMany(s, loadConns)
	if err != nil {
		return err
	}
	defer closeAll(conns)
	if f.before, err = harness.MemoryOf(s.Pid()); err != nil {
		return err
	}
	if f.grantRate, f.grantCPU, err = measured(s, c.leases, func(worker, i int) error {
		_, err := pb.NewLeaseClient(conns[worker%len(conns)]).LeaseGrant(context.Background(),
			&pb.LeaseGrantRequest{ID: int64(i + 1), TTL: leaseTTL})
		return err
	}, loadClients); err != nil {
		return err
	}
	time.Sleep(c.settle)
	if f.after, err = harness.MemoryOf(s.Pid()); err != nil {
		return err
	}
	if err := c.renew(s, conns, f); err != nil {
		return err
	}
	return c.expire(s, conns, f)
}

// measured does something n times with many workers and returns how often a second and at what cost for the server.
func measured(s *harness.Server, n int, do func(worker, i int) error, workers int) (rate, cpu float64, err error) {
	before, err := harness.CPUTime(s.Pid())
	if err != nil {
		return 0, 0, err
	}
	start := time.Now()
	var next atomic.Int64
	var wg sync.WaitGroup
	errs := make(chan error, workers)
	for w := range workers {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for i := next.Add(1) - 1; i < int64(n); i = next.Add(1) - 1 {
				if err := do(w, int(i)); err != nil {
					errs <- err
					return
				}
			}
		}()
	}
	wg.Wait()
	took := time.Since(start)
	select {
	case err := <-errs:
		return 0, 0, err
	default:
	}
	after, err := harness.CPUTime(s.Pid())
	return float64(n) / took.Seconds(), (after - before).Seconds() * 1e6 / float64(n), err
}

// renew keeps leases alive over streams: one after the other on each, as clients with a lease each do, and in bursts, as
// clients with many do.
func (c *config) renew(s *harness.Server, conns []*grpc.ClientConn, f *leaseFigures) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var streams []pb.Lease_LeaseKeepAliveClient
	for i := range renewStreams {
		stream, err := pb.NewLeaseClient(conns[i%len(conns)]).LeaseKeepAlive(ctx)
		if err != nil {
			return err
		}
		streams = append(streams, stream)
	}
	n := max(100, min(c.leases, 200000))
	id := func(i int) int64 { return int64(i*7919%c.leases + 1) }
	keep := func(burst int) func(worker, i int) error {
		return func(worker, i int) error {
			for j := range burst {
				if err := streams[worker].Send(&pb.LeaseKeepAliveRequest{ID: id(i*burst + j)}); err != nil {
					return err
				}
			}
			for j := range burst {
				r, err := streams[worker].Recv()
				if err == nil && (r.ID != id(i*burst+j) || r.TTL != leaseTTL) {
					err = fmt.Errorf("lease %d was kept alive as %v", id(i*burst+j), r)
				}
				if err != nil {
					return err
				}
			}
			return nil
		}
	}
	var err error
	if f.renewRate, f.renewCPU, err = measured(s, n, keep(1), renewStreams); err != nil {
		return err
	}
	bursts := max(1, 4*n/renewBurst)
	f.burstRate, f.burstCPU, err = measured(s, bursts, keep(renewBurst), renewStreams)
	f.burstRate, f.burstCPU = f.burstRate*renewBurst, f.burstCPU/renewBurst
	return err
}

// expire makes leases with a key each that all end within one second, and measures puts from then on until all keys
// have gone.
func (c *config) expire(s *harness.Server, conns []*grpc.ClientConn, f *leaseFigures) error {
	var err error
	if f.idle, _, err = c.paced(s, func() error { time.Sleep(c.duration); return nil }); err != nil {
		return err
	}
	n := c.expiring()
	due := make([]time.Time, n)
	end := time.Now().Add(expireIn)
	if _, _, err = measured(s, n, func(worker, i int) error {
		conn := conns[worker%len(conns)]
		ttl := int64(time.Until(end).Round(time.Second) / time.Second)
		if ttl < 3 {
			return fmt.Errorf("%d leases could not be made in %v", n, expireIn)
		}
		id := int64(1)<<40 + int64(i)
		if _, err := pb.NewLeaseClient(conn).LeaseGrant(context.Background(), &pb.LeaseGrantRequest{ID: id, TTL: ttl}); err != nil {
			return err
		}
		due[i] = time.Now().Add(time.Duration(ttl) * time.Second)
		_, err := pb.NewKVClient(conn).Put(context.Background(), &pb.PutRequest{Key: expiringKey(i), Lease: id})
		return err
	}, loadClients/8); err != nil {
		return err
	}
	gone, err := watchGone(conns[0], n, due, f)
	if err != nil {
		return err
	}
	time.Sleep(time.Until(end.Add(-500 * time.Millisecond)))
	f.meantime, _, err = c.paced(s, func() error {
		select {
		case err := <-gone:
			return err
		case <-time.After(expirePatience):
			return fmt.Errorf("keys are still there %v after their leases ended", expirePatience)
		}
	})
	return err
}

func expiringKey(i int) []byte { return fmt.Appendf(nil, "expiring/%06d", i) }

// watchGone watches the keys of the leases that will end, and notes how long after its time each has gone.
func watchGone(conn *grpc.ClientConn, n int, due []time.Time, f *leaseFigures) (chan error, error) {
	stream, err := openStream(conn)
	if err != nil {
		return nil, err
	}
	if err := stream.create(true, &pb.WatchCreateRequest{Key: []byte("expiring/"), RangeEnd: []byte("expiring0")}); err != nil {
		return nil, err
	}
	done := make(chan error, 1)
	var first time.Time
	left := n
	stream.read(func(raw []byte) {
		now := time.Now()
		var r pb.WatchResponse
		if proto.Unmarshal(raw, &r) != nil {
			return
		}
		for _, e := range r.Events {
			var i int
			if _, err := fmt.Sscanf(string(e.Kv.Key), "expiring/%d", &i); err != nil || e.Type != mvccpb.Event_DELETE {
				continue
			}
			late := now.Sub(due[i])
			if left == n {
				first, f.early, f.late = now, late, late
			}
			f.early, f.late = min(f.early, late), max(f.late, late)
			if left--; left == 0 {
				f.span = now.Sub(first)
				done <- nil
				stream.close()
			}
		}
	})
	return done, nil
}

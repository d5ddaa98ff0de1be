// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"cairn/tests/harness"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// The scenarios of clusters: three members on this machine, peers connected directly.

const (
	clusterSize = 3
	joinValue   = 4096
	joinBytes   = 1 << 30 // What an empty member has to fetch.
	joinLimit   = 10 * time.Minute
	joinClients = 128
)

// cluster runs the tool against two clusters side by side.
func (c *config) cluster(out *table) error {
	var pair [2]target
	for i, kind := range []harness.Kind{harness.Etcd, harness.Cairn} {
		to, err := c.trio(kind, "cluster")
		if err != nil {
			return err
		}
		defer to.close()
		pair[i] = to
	}
	return c.compare(out, "three members (clients/connections)", map[string]bool{"put": true, "range": true}, pair)
}

// member makes the place of one member.
func (c *config) member(kind harness.Kind, scenario string, n int) (*harness.Server, error) {
	bin, err := binary(kind)
	if err != nil {
		return nil, err
	}
	return harness.New(harness.Options{Kind: kind, Bin: bin,
		Dir: filepath.Join(c.dir, scenario, string(kind), fmt.Sprint(n))})
}

func name(n int) string { return fmt.Sprintf("m%d", n) }

func peerURL(s *harness.Server) string { return fmt.Sprintf("http://127.0.0.1:%d", s.PeerPort) }

func setArgs(s *harness.Server, n int, list []string, state string) {
	s.Args = []string{"--name=" + name(n), "--initial-cluster=" + strings.Join(list, ","), "--initial-cluster-state=" + state,
		"--quota-backend-bytes=8589934592"}
}

// trio starts a cluster.
func (c *config) trio(kind harness.Kind, scenario string) (to target, err error) {
	var list []string
	for n := range clusterSize {
		s, err := c.member(kind, scenario, n)
		if err != nil {
			return nil, err
		}
		to = append(to, s)
		list = append(list, name(n)+"="+peerURL(s))
	}
	for n, s := range to {
		setArgs(s, n, list, "new")
		if err := s.Start(); err != nil {
			to.close()
			return nil, err
		}
	}
	for _, s := range to {
		if err := s.WaitReady(harness.ReadyLimit); err != nil {
			to.close()
			return nil, err
		}
	}
	return to, nil
}

// joinFigures are what one kind of cluster needed to bring an empty member up.
type joinFigures struct {
	took, serves time.Duration // From its start until it has what the leader had then; until it answers a read.
	idle, during latency
}

func (c *config) join(out *table) error {
	var got [2]joinFigures
	for i, kind := range c.kinds() {
		if err := c.joinOne(kind, &got[i]); err != nil {
			return fmt.Errorf("%s: %w", kind, err)
		}
	}
	out.start(fmt.Sprintf("an empty member joins three with %d MiB, puts at %d/s", c.joinBytes>>20, c.rate), "etcd", "Cairn", "ratio")
	row := func(what string, f func(joinFigures) float64) {
		a, b := f(got[0]), f(got[1])
		out.add(what, fmt.Sprintf("%.2f", a), fmt.Sprintf("%.2f", b), times(b, a))
	}
	row("has all, s", func(f joinFigures) float64 { return f.took.Seconds() })
	row("serves, s", func(f joinFigures) float64 { return f.serves.Seconds() })
	row("put p99 before, ms", func(f joinFigures) float64 { return f.idle.p99.Seconds() * 1e3 })
	row("put p99 meanwhile, ms", func(f joinFigures) float64 { return f.during.p99.Seconds() * 1e3 })
	row("put p99 meanwhile : before", func(f joinFigures) float64 { return ratio(f.during, f.idle) })
	out.end()
	return nil
}

func (c *config) joinOne(kind harness.Kind, f *joinFigures) error {
	to, err := c.trio(kind, "join")
	if err != nil {
		return err
	}
	defer func() { to.close() }()
	if err := c.fill(to[0]); err != nil {
		return err
	}
	time.Sleep(c.settle)
	if f.idle, _, err = c.paced(to[0], func() error { time.Sleep(2 * c.duration); return nil }); err != nil {
		return err
	}
	fresh, err := c.announce(kind, to)
	if err != nil {
		return err
	}
	to = append(to, fresh)
	f.during, _, err = c.paced(to[0], func() error { return follow(to[0], fresh, f) })
	return err
}

// fill puts what the newcomer is to fetch, each key once.
func (c *config) fill(s *harness.Server) error {
	conns, err := dialMany(s, loadConns)
	if err != nil {
		return err
	}
	defer closeAll(conns)
	var next atomic.Int64
	var all sync.WaitGroup
	errs := make(chan error, joinClients)
	for w := range joinClients {
		kv, rng := pb.NewKVClient(conns[w%len(conns)]), rand.New(rand.NewPCG(7, uint64(w)))
		all.Go(func() {
			for i := next.Add(1); i*joinValue <= c.joinBytes; i = next.Add(1) {
				req := &pb.PutRequest{Key: loadKey(int(i)), Value: randomBytes(rng, joinValue)}
				if _, err := kv.Put(context.Background(), req); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	all.Wait()
	select {
	case err := <-errs:
		return err
	default:
		return nil
	}
}

// announce adds a fourth member, which does not run yet, to a cluster. It is a learner, so that the writes need no
// more members than before.
func (c *config) announce(kind harness.Kind, to target) (*harness.Server, error) {
	fresh, err := c.member(kind, "join", len(to))
	if err != nil {
		return nil, err
	}
	conn, err := to[0].Dial()
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), harness.ReadyLimit)
	defer cancel()
	req := &pb.MemberAddRequest{PeerURLs: []string{peerURL(fresh)}, IsLearner: true}
	for { // Members must have been connected for five seconds.
		_, err := pb.NewClusterClient(conn).MemberAdd(ctx, req)
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			return nil, err
		}
		time.Sleep(100 * time.Millisecond)
	}
	var list []string
	for n, s := range append(to[:len(to):len(to)], fresh) {
		list = append(list, name(n)+"="+peerURL(s))
	}
	setArgs(fresh, len(to), list, "existing")
	return fresh, nil
}

// follow starts the newcomer and waits until it has applied what the member had then.
func follow(member, fresh *harness.Server, f *joinFigures) error {
	ctx, cancel := context.WithTimeout(context.Background(), joinLimit)
	defer cancel()
	var wanted int64
	for {
		var err error
		if wanted, err = revision(ctx, member); err == nil {
			break
		}
		if ctx.Err() != nil || !member.Alive() {
			return err
		}
		time.Sleep(5 * time.Millisecond)
	}
	start := time.Now()
	if err := fresh.Start(); err != nil {
		return err
	}
	for ctx.Err() == nil {
		if !fresh.Alive() {
			return fmt.Errorf("the newcomer ended\n%s", fresh.LogTail(20))
		}
		if now, err := revision(ctx, fresh); err == nil {
			if f.serves == 0 {
				f.serves = time.Since(start)
			}
			if now >= wanted {
				f.took = time.Since(start)
				return nil
			}
		}
		time.Sleep(5 * time.Millisecond)
	}
	return fmt.Errorf("the newcomer has not caught up within %v\n%s", joinLimit, fresh.LogTail(20))
}

// revision asks for the member's own state.
func revision(ctx context.Context, s *harness.Server) (int64, error) {
	conn, err := s.Dial(quickRetry)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	resp, err := pb.NewMaintenanceClient(conn).Status(ctx, &pb.StatusRequest{})
	return resp.GetHeader().GetRevision(), err
}

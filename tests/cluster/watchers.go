// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"sync"
	"time"

	"cairn/tests/harness"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// The watchers of a round: stock clients, which resume a watch by themselves at whatever member they find. Some know
// one member only; some end their watch now and then and open it again where it ended. What each was told is judged by
// watch_checks.go against the store at every revision.

const (
	reopenEvery   = 700 * time.Millisecond // On average, where a watcher does it.
	progressEvery = 100 * time.Millisecond // A client that asks for progress asks so often, as kube-apiserver does.
	watchersWait  = 40 * time.Second       // For the last event, after all is well again.
)

// watcher is one running watcher.
type watcher struct {
	watched
	member  *harness.Member // The only one that its client knows, if it is so.
	client  *clientv3.Client
	rng     *rand.Rand
	reopens bool // It ends its watch now and then.
	leader  bool // It wants to be told when its member has no leader.

	mu     sync.Mutex
	next   int64 // Where the next opening begins.
	errors map[string]int
	fatal  error
}

// watchers is all watchers of a round.
type watchers struct {
	list   []*watcher
	cancel context.CancelFunc
	done   sync.WaitGroup
}

// startWatchers opens watches of the keys of rounds, from a revision on.
func startWatchers(rng *rand.Rand, members []*harness.Member, prefix string, from int64) (*watchers, error) {
	ctx, cancel := context.WithCancel(context.Background())
	g := &watchers{cancel: cancel}
	all := addresses(members)
	add := func(name string, endpoints []string, w *watcher) error {
		c, err := newClient(endpoints, false)
		if err != nil {
			return err
		}
		w.name, w.next, w.client, w.errors = name, from, c, map[string]int{}
		w.rng = rand.New(rand.NewPCG(rng.Uint64(), uint64(len(g.list))))
		g.list = append(g.list, w)
		return nil
	}
	var err error
	for _, m := range members {
		err = errors.Join(err, add("of "+m.Name, []string{m.Addr()},
			&watcher{member: m, watched: watched{key: "r", end: "u", prior: rng.IntN(2) == 0}}))
	}
	err = errors.Join(err,
		add("of all members", all, &watcher{watched: watched{key: "r", end: "u", prior: true}}),
		add("that reopens", all, &watcher{watched: watched{key: "r", end: "u", prior: true}, reopens: true}),
		add("that wants a leader", all, &watcher{watched: watched{key: prefix, end: prefix + "z"}, leader: true}),
		add("of one key", all, &watcher{watched: watched{key: prefix + "b", prior: true}, reopens: true}),
		add("of deletes", all, &watcher{watched: watched{key: "r", end: "u", noPuts: true, prior: true}}),
		add("of puts", all, &watcher{watched: watched{key: "r", end: "u", noDeletes: true}, reopens: true}))
	if err != nil {
		g.stop()
		return nil, err
	}
	for _, w := range g.list {
		g.done.Add(1)
		go func() {
			defer g.done.Done()
			w.run(ctx)
		}()
	}
	return g, nil
}

func (g *watchers) stop() {
	g.cancel()
	g.done.Wait()
	for _, w := range g.list {
		w.client.Close()
	}
}

// judge waits until each watcher was told all that a record holds, ends them, and says which promises were broken.
func (g *watchers) judge(r *record) (told int, err error) {
	deadline := time.Now().Add(watchersWait)
	for _, w := range g.list {
		for w.reaches() && !w.caughtUp(r) && time.Now().Before(deadline) {
			time.Sleep(10 * time.Millisecond)
		}
	}
	g.stop()
	var errs []error
	for _, w := range g.list {
		errs = append(errs, w.fatal, checkWatched(r, &w.watched, w.reaches()))
		for _, o := range w.openings {
			for _, t := range o.got {
				told += len(t.events)
			}
		}
	}
	return told, errors.Join(errs...)
}

// explain adds the errors that ended watches.
func (g *watchers) explain(errors map[string]int) {
	for _, w := range g.list {
		for text, n := range w.errors {
			errors["watch: "+text] += n
		}
	}
}

// reaches says whether the watcher's client knows a member that is still one.
func (w *watcher) reaches() bool { return w.member == nil || !w.member.Removed }

// caughtUp says whether the watcher has got the last event that it is to get.
func (w *watcher) caughtUp(r *record) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	last := int64(0)
	for revision := range maps.Keys(r.owed(&w.watched, w.next)) {
		last = max(last, revision)
	}
	return w.next > last || w.fatal != nil
}

func (w *watcher) run(ctx context.Context) {
	for ctx.Err() == nil && w.fatal == nil {
		w.open(ctx)
		select { // A member that refuses is not asked in a busy loop.
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

func (w *watcher) options() []clientv3.OpOption {
	list := []clientv3.OpOption{clientv3.WithRev(w.next), clientv3.WithProgressNotify()}
	if w.end != "" {
		list = append(list, clientv3.WithRange(w.end))
	}
	if w.prior {
		list = append(list, clientv3.WithPrevKV())
	}
	if w.noPuts {
		list = append(list, clientv3.WithFilterPut())
	}
	if w.noDeletes {
		list = append(list, clientv3.WithFilterDelete())
	}
	return list
}

// open watches until the watch ends.
func (w *watcher) open(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if w.leader {
		ctx = clientv3.WithRequireLeader(ctx)
	}
	end := make(<-chan time.Time)
	if w.reopens {
		end = time.After(time.Duration(w.rng.Int64N(int64(2 * reopenEvery))))
	}
	w.mu.Lock()
	w.openings = append(w.openings, opening{from: w.next})
	w.mu.Unlock()
	responses := w.client.Watch(ctx, w.key, w.options()...)
	ask := time.NewTicker(progressEvery)
	defer ask.Stop()
	for {
		select {
		case resp, ok := <-responses:
			if !ok {
				return
			}
			w.take(&resp)
		case <-ask.C:
			if err := w.client.RequestProgress(ctx); err != nil {
				continue // The watch says it too.
			}
		case <-end:
			return
		}
	}
}

func (w *watcher) take(resp *clientv3.WatchResponse) {
	w.mu.Lock()
	defer w.mu.Unlock()
	o := &w.openings[len(w.openings)-1]
	if err := resp.Err(); err != nil {
		w.errors[err.Error()]++
		if resp.CompactRevision != 0 || !errors.Is(err, context.Canceled) && !explained(err) {
			w.fatal = fmt.Errorf("watcher %s, at revision %d: %w", w.name, w.next, err)
		}
		return
	}
	if resp.Created || resp.Canceled {
		return
	}
	t := told{revision: resp.Header.Revision}
	for _, e := range resp.Events {
		t.events = append(t.events, toldEvent(e))
	}
	o.got = append(o.got, t)
	if n := len(t.events); n > 0 {
		w.next = max(w.next, t.events[n-1].mod+1)
	} else {
		w.next = max(w.next, t.revision+1)
	}
}

func toldEvent(e *clientv3.Event) event {
	got := event{key: string(e.Kv.Key), mod: e.Kv.ModRevision}
	if e.Type != mvccpb.Event_DELETE {
		got.now = version{string(e.Kv.Value), e.Kv.CreateRevision, e.Kv.ModRevision, e.Kv.Version}
	}
	if kv := e.PrevKv; kv != nil {
		got.prior = version{string(kv.Value), kv.CreateRevision, kv.ModRevision, kv.Version}
	}
	return got
}

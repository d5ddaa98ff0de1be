// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"cairn/tests/harness"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// progressEvery is how often kube-apiserver asks for progress while somebody waits for a consistent read from its cache.
const progressEvery = 100 * time.Millisecond

// cache is what kube-apiserver keeps of one kind of object: listed once, then kept up by a watch.
type cache struct {
	prefix string

	mu        sync.Mutex
	objects   map[string]*mvccpb.KeyValue
	revision  int64 // It is what the store was at this revision.
	bookmarks int
	events    int
	failure   error
}

// start lists, and watches from behind the list, as kube-apiserver does: with previous versions, progress
// notifications and a notice that the watch was created.
func (c *cache) start(ctx context.Context, client *clientv3.Client) error {
	list, err := client.Get(ctx, c.prefix, clientv3.WithPrefix())
	if err != nil {
		return err
	}
	c.objects, c.revision = map[string]*mvccpb.KeyValue{}, list.Header.Revision
	for _, kv := range list.Kvs {
		c.objects[string(kv.Key)] = kv
	}
	responses := client.Watch(clientv3.WithRequireLeader(ctx), c.prefix, clientv3.WithPrefix(), clientv3.WithPrevKV(),
		clientv3.WithProgressNotify(), clientv3.WithCreatedNotify(), clientv3.WithRev(c.revision+1))
	created := <-responses
	if !created.Created || created.Canceled {
		return fmt.Errorf("%s: the first response is %+v", c.prefix, created)
	}
	go func() {
		for r := range responses {
			c.take(&r)
		}
	}()
	return nil
}

func (c *cache) fail(format string, args ...any) {
	if c.failure == nil {
		c.failure = fmt.Errorf("%s: %s", c.prefix, fmt.Sprintf(format, args...))
	}
}

func (c *cache) take(r *clientv3.WatchResponse) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r.Err() != nil {
		if r.Err() != context.Canceled {
			c.fail("the watch ended: %v", r.Err())
		}
		return
	}
	if r.IsProgressNotify() {
		c.bookmarks++
		if r.Header.Revision < c.revision {
			c.fail("progress at %d behind %d", r.Header.Revision, c.revision)
		}
	}
	for _, e := range r.Events {
		c.event(e)
	}
	if r.Header.Revision > c.revision && (len(r.Events) == 0 || r.Events[len(r.Events)-1].Kv.ModRevision == r.Header.Revision) {
		c.revision = r.Header.Revision
	}
}

// event changes the cache; the previous version must be the one that is in it.
func (c *cache) event(e *clientv3.Event) {
	c.events++
	key, known := string(e.Kv.Key), c.objects[string(e.Kv.Key)]
	if e.Kv.ModRevision <= c.revision && known != nil && known.ModRevision >= e.Kv.ModRevision {
		c.fail("%s at %d comes again", key, e.Kv.ModRevision)
	}
	if (e.PrevKv == nil) != (known == nil) ||
		known != nil && (e.PrevKv.ModRevision != known.ModRevision || !bytes.Equal(e.PrevKv.Value, known.Value)) {
		c.fail("%s at %d: the version before was %v, not %v", key, e.Kv.ModRevision, known.GetModRevision(),
			e.PrevKv.GetModRevision())
	}
	if e.Type == mvccpb.Event_DELETE {
		delete(c.objects, key)
	} else {
		c.objects[key] = e.Kv
	}
}

// fresh waits until the cache is at a revision at least, as a consistent read from it does, and compares it with the
// store.
func (c *cache) fresh(ctx context.Context, client *clientv3.Client, revision int64) error {
	for {
		c.mu.Lock()
		at, failure := c.revision, c.failure
		copied := make(map[string]int64, len(c.objects))
		for key, kv := range c.objects {
			copied[key] = kv.ModRevision
		}
		c.mu.Unlock()
		if failure != nil {
			return failure
		}
		if at < revision {
			select {
			case <-ctx.Done():
				return fmt.Errorf("%s: the cache is at %d, not at %d", c.prefix, at, revision)
			case <-time.After(5 * time.Millisecond):
			}
			continue
		}
		list, err := client.Get(ctx, c.prefix, clientv3.WithPrefix(), clientv3.WithRev(at), clientv3.WithKeysOnly())
		if err != nil {
			return err
		}
		for _, kv := range list.Kvs {
			if copied[string(kv.Key)] != kv.ModRevision {
				return fmt.Errorf("%s at %d: the cache has %s from %d, the store from %d", c.prefix, at, kv.Key,
					copied[string(kv.Key)], kv.ModRevision)
			}
		}
		if len(list.Kvs) != len(copied) {
			return fmt.Errorf("%s at %d: the cache has %d objects, the store %d", c.prefix, at, len(copied), len(list.Kvs))
		}
		return nil
	}
}

// change makes some of the changes that controllers make: of an object, of none, a removal.
func change(ctx context.Context, client *clientv3.Client, rng *rand.Rand, list []object, gen int) (int64, error) {
	o := list[rng.IntN(len(list))]
	if rng.IntN(6) == 0 {
		r, err := client.Delete(ctx, o.key)
		if err != nil {
			return 0, err
		}
		return r.Header.Revision, nil
	}
	r, err := client.Put(ctx, o.key, string(o.value(gen)))
	if err != nil {
		return 0, err
	}
	return r.Header.Revision, nil
}

// TestKubernetesCaches keeps caches of all kinds of objects by watches while objects change, the server compacts and is
// killed, and compares each with the store when it is as new as a revision that was asked for.
func TestKubernetesCaches(t *testing.T) {
	harness.CairnBin(t)
	watchCaches(t, harness.Cairn)
}

// TestKubernetesCachesOracle proves that etcd passes.
func TestKubernetesCachesOracle(t *testing.T) { watchCaches(t, harness.Etcd) }

func watchCaches(t *testing.T, kind harness.Kind) {
	s := harness.StartForTest(t, kind, "--watch-progress-notify-interval=5s")
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{s.Addr()}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	rng := rand.New(rand.NewPCG(seed, 7))
	list := objects(seed, 600)
	for _, o := range list {
		_, err := client.Put(ctx, o.key, string(o.value(0)))
		must(err)
	}
	var caches []*cache
	for _, r := range resources {
		c := &cache{prefix: "/registry/" + strings.Split(r.name, "/")[0] + "/"}
		must(c.start(ctx, client))
		caches = append(caches, c)
	}
	go askProgress(ctx, client)
	for round := range 24 {
		var revision int64
		for range 40 {
			revision, err = change(ctx, client, rng, list, round+1)
			must(err)
		}
		for _, c := range caches {
			must(c.fresh(ctx, client, revision))
		}
		switch round {
		case 6, 14:
			_, err := client.Compact(ctx, revision, clientv3.WithCompactPhysical())
			must(err)
		case 10:
			must(s.Kill9())
			must(s.StartReady())
		}
	}
	bookmarks, events := 0, 0
	for _, c := range caches {
		bookmarks, events = bookmarks+c.bookmarks, events+c.events
	}
	if bookmarks < len(caches) || events < 500 {
		t.Errorf("%d progress notifications and %d events: it did not test much", bookmarks, events)
	}
	t.Logf("%s: %d caches, %d events, %d progress notifications", kind, len(caches), events, bookmarks)
}

// askProgress asks for progress of all watches at once: they share a stream.
func askProgress(ctx context.Context, client *clientv3.Client) {
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			client.RequestProgress(clientv3.WithRequireLeader(ctx)) // A watch that ends says so itself.
		case <-ctx.Done():
			return
		}
	}
}

// TestCacheCheck plants what a cache must refuse.
func TestCacheCheck(t *testing.T) {
	kv := func(mod int64) *mvccpb.KeyValue { return &mvccpb.KeyValue{Key: []byte("a"), ModRevision: mod} }
	put := func(mod int64, prev *mvccpb.KeyValue) *clientv3.Event {
		return (*clientv3.Event)(&mvccpb.Event{Kv: kv(mod), PrevKv: prev})
	}
	for name, events := range map[string][]*clientv3.Event{
		"":                        {put(3, kv(2)), put(4, kv(3))},
		"twice":                   {put(3, kv(2)), put(3, kv(2))},
		"lost":                    {put(4, kv(3))},
		"without the previous":    {put(3, nil)},
		"with another's previous": {put(3, kv(1))},
	} {
		c := &cache{objects: map[string]*mvccpb.KeyValue{"a": kv(2)}, revision: 2}
		for _, e := range events {
			c.event(e)
		}
		if (c.failure == nil) != (name == "") {
			t.Errorf("%q: %v", name, c.failure)
		}
	}
}

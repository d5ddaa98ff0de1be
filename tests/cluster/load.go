// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"cairn/tests/harness"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// The load: stock clients that read and write a handful of keys and note each call in a history. Some know one member
// only, so that a paused or parted member keeps its clients; the others know all. A client makes one call at a time.

const (
	keysOfRound = 5
	thinkTime   = 12 * time.Millisecond // On average, between two calls of a client.
	callLimit   = 3 * time.Second       // Of a call, unless a test wants it longer.
)

// loadOptions say what a load is like.
type loadOptions struct {
	prefix    string     // Of its keys, none of which exists when it starts.
	endpoints [][]string // Those that each client knows.
	etcd      bool       // Some members are etcd's.
	patience  time.Duration
	lie       bool // It makes serializable reads and calls them linearizable.
}

// load is a running load; its operations are complete once stop has returned.
type load struct {
	loadOptions
	start  time.Time // Of the clock of all histories of a campaign.
	cancel context.CancelFunc
	done   sync.WaitGroup

	clients []*clientv3.Client

	mu  sync.Mutex
	ops []*operation
}

// startLoad starts the clients of a load.
func startLoad(start time.Time, rng *rand.Rand, options loadOptions) (*load, error) {
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{loadOptions: options, start: start, cancel: cancel}
	for i, list := range options.endpoints {
		c, err := newClient(list, options.etcd)
		if err != nil {
			l.stop()
			return nil, err
		}
		w := &worker{load: l, id: i, client: c, rng: rand.New(rand.NewPCG(rng.Uint64(), uint64(i))),
			known: map[string]version{}}
		l.clients = append(l.clients, c)
		l.done.Add(1)
		go func() {
			defer l.done.Done()
			defer c.Close()
			w.run(ctx)
		}()
	}
	return l, nil
}

// newClient is a stock client, except for its patience with a member that is away and, with members of etcd's kind, its
// patience until a call's time is over.
func newClient(endpoints []string, etcd bool) (*clientv3.Client, error) {
	options := []grpc.DialOption{grpc.WithConnectParams(grpc.ConnectParams{
		Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.5, MaxDelay: 500 * time.Millisecond},
		MinConnectTimeout: callLimit,
	})}
	if etcd {
		options = append(options, grpc.WithChainUnaryInterceptor(waitOut))
	}
	return clientv3.New(clientv3.Config{Endpoints: endpoints, Logger: zap.NewNop(), DialOptions: options})
}

// waitOut keeps a deadline that etcd notices some moments before the client from clientv3, which would send the request
// to the next member and so make a write twice (see TestDeadlineIsTheClients).
func waitOut(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker,
	opts ...grpc.CallOption) error {
	err := invoke(ctx, method, req, reply, cc, opts...)
	if status.Code(err) == codes.DeadlineExceeded {
		<-ctx.Done()
	}
	return err
}

func addresses(members []*harness.Member) (list []string) {
	for _, m := range members {
		list = append(list, m.Addr())
	}
	return list
}

// endpointsFor gives one client to each member alone and as many more that know all members.
func endpointsFor(members []*harness.Member) (list [][]string) {
	for _, m := range members {
		list = append(list, []string{m.Addr()})
	}
	for range members {
		list = append(list, addresses(members))
	}
	return list
}

// use makes all clients know these members from now on.
func (l *load) use(members []*harness.Member) {
	for _, c := range l.clients {
		c.SetEndpoints(addresses(members)...)
	}
}

// stop ends the load and returns its operations, each client's in their order.
func (l *load) stop() []*operation {
	l.cancel()
	l.done.Wait()
	return l.ops
}

func (l *load) now() int64 { return int64(time.Since(l.start)) }

func (l *load) note(o *operation) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ops = append(l.ops, o)
}

// answered counts the calls that were answered since a moment of the load's clock.
func (l *load) answered(since int64) (count int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, o := range l.ops {
		if o.answered && o.call >= since {
			count++
		}
	}
	return count
}

// firstWrite returns when the first write ended that was called after a moment and acknowledged; 0 when none was.
func (l *load) firstWrite(since int64) (first int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, o := range l.ops {
		if o.wrote() && o.call >= since && (first == 0 || o.ret < first) {
			first = o.ret
		}
	}
	return first
}

// worker is one client.
type worker struct {
	load   *load
	id, n  int
	client *clientv3.Client
	rng    *rand.Rand
	known  map[string]version // As this client saw the keys last.
}

func (w *worker) run(ctx context.Context) {
	for ctx.Err() == nil {
		o := w.next()
		w.call(ctx, o)
		w.load.note(o)
		pause := time.Duration(w.rng.Int64N(int64(2 * thinkTime)))
		if !o.answered {
			pause += 2 * thinkTime // A member that is away is not asked in a busy loop.
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
}

func (w *worker) key() string { return fmt.Sprintf("%s%c", w.load.prefix, 'a'+w.rng.IntN(keysOfRound)) }

// value is unlike every other.
func (w *worker) value() string { return fmt.Sprintf("%s%d.%d", w.load.prefix, w.id, w.n) }

// next chooses a call.
func (w *worker) next() *operation {
	w.n++
	o := &operation{client: w.id, number: w.n, saw: map[string]version{}, removed: map[string]bool{}}
	key := w.key()
	switch n := w.rng.IntN(100); {
	case n < 25:
		o.what, o.changes = "put", []change{{key, w.value()}}
		if w.rng.IntN(2) == 0 {
			o.what = "put with previous"
			o.saw[key] = version{}
		}
	case n < 45:
		o.what = "get"
		o.saw[key] = version{}
	case n < 53:
		o.what, o.serializable = "get serializable", true
		o.saw[key] = version{}
	case n < 63:
		o.what = "range"
		w.sawAll(o)
	case n < 66:
		o.what, o.serializable = "range serializable", true
		w.sawAll(o)
	case n < 75:
		o.what, o.changes = "delete", []change{{key, ""}}
	case n < 88:
		o.what, o.guard, o.changes = "swap", &guard{key, w.known[key]}, []change{{key, w.value()}}
		o.saw[key] = version{}
	default:
		o.what = "txn"
		other := key
		for other == key {
			other = w.key()
		}
		o.changes = []change{{key, w.value()}, {other, ""}}
		if w.rng.IntN(2) == 0 {
			o.changes[1].value = w.value() + "+"
		}
		o.saw[key], o.saw[other] = version{}, version{}
	}
	return o
}

func (w *worker) sawAll(o *operation) {
	for i := range keysOfRound {
		o.saw[fmt.Sprintf("%s%c", w.load.prefix, 'a'+i)] = version{}
	}
}

// call makes the call and notes the answer.
func (w *worker) call(ctx context.Context, o *operation) {
	ctx, cancel := context.WithTimeout(ctx, w.load.patience)
	defer cancel()
	o.call = w.load.now()
	var header *pb.ResponseHeader
	switch {
	case len(o.changes) == 0:
		header, o.err = w.get(ctx, o)
	case o.what == "delete":
		header, o.err = w.remove(ctx, o)
	case o.guard == nil && len(o.changes) == 1:
		header, o.err = w.put(ctx, o)
	default:
		header, o.err = w.txn(ctx, o)
	}
	o.ret = w.load.now()
	if o.err != nil {
		o.saw, o.removed = nil, nil
		return
	}
	o.answered, o.revision, o.member = true, header.Revision, header.MemberId
	w.learn(o)
}

// learn remembers how keys are now as far as the answer tells.
func (w *worker) learn(o *operation) {
	for key, v := range o.saw {
		w.known[key] = v
	}
	if !o.held {
		return
	}
	for _, c := range o.changes {
		before, sure := o.saw[c.key]
		switch {
		case c.value == "":
			w.known[c.key] = version{}
		case !sure:
			delete(w.known, c.key) // Its version counter isn't known.
		default:
			if before.value == "" {
				before.create = o.revision
			}
			w.known[c.key] = version{c.value, before.create, o.revision, before.version + 1}
		}
	}
}

func (o *operation) sees(kvs []*mvccpb.KeyValue) {
	for _, kv := range kvs {
		o.saw[string(kv.Key)] = version{string(kv.Value), kv.CreateRevision, kv.ModRevision, kv.Version}
	}
}

func (w *worker) get(ctx context.Context, o *operation) (*pb.ResponseHeader, error) {
	var opts []clientv3.OpOption
	key := w.load.prefix
	if len(o.saw) == 1 {
		key = sortedKeys(o.saw)[0]
	} else {
		opts = append(opts, clientv3.WithPrefix())
	}
	if o.serializable || w.load.lie {
		opts = append(opts, clientv3.WithSerializable())
	}
	resp, err := w.client.Get(ctx, key, opts...)
	if err != nil {
		return nil, err
	}
	o.held = true
	o.sees(resp.Kvs)
	return resp.Header, nil
}

func (w *worker) put(ctx context.Context, o *operation) (*pb.ResponseHeader, error) {
	var opts []clientv3.OpOption
	if len(o.saw) > 0 {
		opts = append(opts, clientv3.WithPrevKV())
	}
	resp, err := w.client.Put(ctx, o.changes[0].key, o.changes[0].value, opts...)
	if err != nil {
		return nil, err
	}
	o.held = true
	if resp.PrevKv != nil {
		o.sees([]*mvccpb.KeyValue{resp.PrevKv})
	}
	return resp.Header, nil
}

func (w *worker) remove(ctx context.Context, o *operation) (*pb.ResponseHeader, error) {
	resp, err := w.client.Delete(ctx, o.changes[0].key)
	if err != nil {
		return nil, err
	}
	o.held, o.removed[o.changes[0].key] = true, resp.Deleted > 0
	return resp.Header, nil
}

// txn reads first and changes then, so that what it reads is what was before.
func (w *worker) txn(ctx context.Context, o *operation) (*pb.ResponseHeader, error) {
	keys := sortedKeys(o.saw)
	var gets, ops []clientv3.Op
	for _, key := range keys {
		gets = append(gets, clientv3.OpGet(key))
	}
	ops = append(ops, gets...)
	for _, c := range o.changes {
		if c.value == "" {
			ops = append(ops, clientv3.OpDelete(c.key))
		} else {
			ops = append(ops, clientv3.OpPut(c.key, c.value))
		}
	}
	txn := w.client.Txn(ctx)
	if o.guard != nil {
		txn = txn.If(w.compare(o.guard)...)
	}
	resp, err := txn.Then(ops...).Else(gets...).Commit()
	if err != nil {
		return nil, err
	}
	o.held = resp.Succeeded
	for i, r := range resp.Responses {
		if i < len(keys) {
			o.sees(r.GetResponseRange().Kvs)
		} else if c := o.changes[i-len(keys)]; c.value == "" {
			o.removed[c.key] = r.GetResponseDeleteRange().Deleted > 0
		}
	}
	return resp.Header, nil
}

// compare states the guard in one of the ways that mean the same.
func (w *worker) compare(g *guard) []clientv3.Cmp {
	switch {
	case g.seen.value == "":
		return []clientv3.Cmp{clientv3.Compare(clientv3.CreateRevision(g.key), "=", 0)}
	case w.rng.IntN(2) == 0:
		return []clientv3.Cmp{clientv3.Compare(clientv3.Value(g.key), "=", g.seen.value)}
	default:
		return []clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(g.key), "=", g.seen.mod)}
	}
}

// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"cairn/tests/harness"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
)

// clientv3's concurrency package lives on leases, watches and transactions. These tests use it as its users do, from
// several clients, while the leader is killed or paused every few seconds.

const (
	sessionTTL   = 4 // Seconds; longer than an election.
	waitOfSome   = 15 * time.Second
	accountCount = 6
	startBalance = 100
)

// crowd is some workers, each with a client of its own, that work until the trouble is over. The work of each goes on
// through errors: it is called again.
type crowd struct {
	g      *campaign
	cancel context.CancelFunc
	ctx    context.Context
	done   sync.WaitGroup
	mu     sync.Mutex
	errors map[string]int
	wrong  []error // What must not be.
	did    map[string]int
}

func newCrowd(g *campaign) *crowd {
	ctx, cancel := context.WithCancel(context.Background())
	return &crowd{g: g, ctx: ctx, cancel: cancel, errors: map[string]int{}, did: map[string]int{}}
}

// work starts a worker.
func (c *crowd) work(name string, do func(ctx context.Context, client *clientv3.Client) error) {
	client, err := newClient(addresses(c.g.c.Members), true)
	if err != nil {
		c.g.t.Fatal(err)
	}
	c.done.Add(1)
	go func() {
		defer c.done.Done()
		defer client.Close()
		for c.ctx.Err() == nil {
			ctx, cancel := context.WithTimeout(c.ctx, waitOfSome)
			err := do(ctx, client)
			cancel()
			c.note(name, err)
		}
	}()
}

func (c *crowd) note(name string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case err == nil:
		c.did[name]++
	case c.ctx.Err() == nil:
		c.errors[name+": "+err.Error()]++
		if !explained(err) && !expected(err) && len(c.wrong) < errorsMax {
			c.wrong = append(c.wrong, fmt.Errorf("%s: an error that no fault explains: %w", name, err))
		}
	}
}

var (
	errNotOwner  = errors.New("not the owner any more")
	errUnwatched = errors.New("the observation ended")
)

// expected says whether an error is what the package, or a member that lags, answers when a session did not live
// through the trouble.
func expected(err error) bool {
	for _, known := range []error{errNotOwner, errUnwatched, concurrency.ErrSessionExpired, concurrency.ErrLockReleased,
		concurrency.ErrElectionNotLeader, rpctypes.ErrLeaseNotFound, rpctypes.ErrFutureRev} {
		if errors.Is(err, known) {
			return true
		}
	}
	return false
}

func (c *crowd) fail(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.wrong) < errorsMax {
		c.wrong = append(c.wrong, fmt.Errorf(format, args...))
	}
}

// calm waits until all have got through so many times: what a lost session holds lives on until its lease ends, and each
// leader that is killed makes that later.
func (c *crowd) calm(least int, all []string) {
	lags := func(name string) bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.did[name] < least
	}
	for deadline := time.Now().Add(harness.ReadyLimit); slices.ContainsFunc(all, lags) && time.Now().Before(deadline); {
		time.Sleep(20 * time.Millisecond)
	}
}

func (c *crowd) end() {
	c.g.t.Helper()
	c.cancel()
	c.done.Wait()
	c.g.t.Logf("done: %v", c.did)
	for text, n := range c.errors {
		c.g.t.Logf("%4d %.200s", n, text)
	}
	if err := errors.Join(c.wrong...); err != nil {
		c.g.t.Error(err)
	}
}

// TestConcurrencyThroughKills runs the mutex, the election and STM side by side on one cluster.
func TestConcurrencyThroughKills(t *testing.T) {
	rng := newRand(t)
	g := newCampaign(t, rng, kindsFor(rng, 3))
	ctx := harness.Context(t, *durationFlag+5*time.Minute)
	client, err := newClient(addresses(g.c.Members), true)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for i := range accountCount {
		if _, err := client.Put(ctx, account(i), strconv.Itoa(startBalance)); err != nil {
			t.Fatal(err)
		}
	}
	c := newCrowd(g)
	acks := &acknowledged{}
	for i := range 4 {
		c.work("mutex", func(ctx context.Context, client *clientv3.Client) error {
			return count(ctx, client, acks, fmt.Sprintf("%d.%d", i, rand.Uint64()))
		})
	}
	for i := range 3 {
		c.work("election", func(ctx context.Context, client *clientv3.Client) error { return lead(ctx, client, i) })
	}
	c.work("observer", func(ctx context.Context, client *clientv3.Client) error { return observe(ctx, client, c) })
	for i := range 4 {
		seed := rng.Uint64()
		c.work("transfer", func(ctx context.Context, client *clientv3.Client) error {
			seed++
			return transfer(ctx, client, rand.New(rand.NewPCG(seed, uint64(i))))
		})
	}
	c.work("audit", func(ctx context.Context, client *clientv3.Client) error { return audit(ctx, client, c) })
	g.trouble(max(*durationFlag/8, 20*time.Second))
	g.c.WaitReady(g.c.Current()...)
	least, all := 5, []string{"mutex", "election", "observer", "transfer", "audit"}
	c.calm(least, all)
	c.end()
	judgeCounter(ctx, t, client, acks)
	if err := audit(ctx, client, c); err != nil {
		t.Error(err)
	}
	for _, name := range all {
		if c.did[name] < least {
			t.Errorf("%s got through %d times only", name, c.did[name])
		}
	}
	g.c.CompareHashes(g.c.WaitConverged())
}

// --- The mutex. ---------------------------------------------------------------------------------------------------

const counterKey = "counter"

// acknowledged are the increments that clients know were made.
type acknowledged struct {
	sync.Mutex
	made map[string]int64 // What an increment made of the counter.
}

// count takes the mutex, reads the counter and writes one more, fenced: the write happens only while the key that
// stands for the ownership is still the one of this session. The counter is not compared, so two owners at once would
// lose an increment.
func count(ctx context.Context, client *clientv3.Client, acks *acknowledged, name string) error {
	session, err := concurrency.NewSession(client, concurrency.WithTTL(sessionTTL), concurrency.WithContext(ctx))
	if err != nil {
		return fmt.Errorf("session: %w", err)
	}
	defer session.Close()
	mutex := concurrency.NewMutex(session, "mutex")
	if err := mutex.Lock(ctx); err != nil {
		return fmt.Errorf("lock: %w", err)
	}
	resp, err := client.Get(ctx, counterKey)
	if err != nil {
		return fmt.Errorf("read: %w", err)
	}
	value := int64(0)
	if len(resp.Kvs) > 0 {
		value, _, err = parseCounter(string(resp.Kvs[0].Value))
		if err != nil {
			return err
		}
	}
	done, err := client.Txn(ctx).If(mutex.IsOwner()).
		Then(clientv3.OpPut(counterKey, fmt.Sprintf("%d %s", value+1, name))).Commit()
	if err != nil {
		return fmt.Errorf("write: %w", err)
	}
	if !done.Succeeded {
		return errNotOwner
	}
	acks.Lock()
	if acks.made == nil {
		acks.made = map[string]int64{}
	}
	acks.made[name] = value + 1
	acks.Unlock()
	return mutex.Unlock(ctx)
}

func parseCounter(text string) (value int64, name string, err error) {
	if _, err = fmt.Sscanf(text, "%d %s", &value, &name); err != nil {
		err = fmt.Errorf("the counter is %q", text)
	}
	return value, name, err
}

// judgeCounter reads all values that the counter ever had: each is one more than the one before, each was written by
// another increment, and all that were acknowledged are among them.
func judgeCounter(ctx context.Context, t *testing.T, client *clientv3.Client, acks *acknowledged) {
	t.Helper()
	head, err := client.Get(ctx, counterKey)
	if err != nil || len(head.Kvs) == 0 {
		t.Fatalf("the counter: %v, %v", head, err)
	}
	var texts []string
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for resp := range client.Watch(ctx, counterKey, clientv3.WithRev(1)) {
		if resp.Err() != nil {
			t.Fatal(resp.Err())
		}
		for _, e := range resp.Events {
			texts = append(texts, string(e.Kv.Value))
		}
		if n := len(resp.Events); n > 0 && resp.Events[n-1].Kv.ModRevision == head.Kvs[0].ModRevision {
			break
		}
	}
	if err := checkCounter(texts, acks.made); err != nil {
		t.Error(err)
	}
	t.Logf("the counter came to %d, %d increments acknowledged", len(texts), len(acks.made))
}

func checkCounter(texts []string, made map[string]int64) error {
	names := map[string]int64{}
	for i, text := range texts {
		value, name, err := parseCounter(text)
		switch {
		case err != nil:
			return err
		case value != int64(i+1):
			return fmt.Errorf("the counter became %d the %d. time: two had the mutex", value, i+1)
		case names[name] != 0:
			return fmt.Errorf("increment %s was made twice", name)
		}
		names[name] = value
	}
	for name, value := range made {
		if names[name] != value {
			return fmt.Errorf("increment %s to %d was acknowledged, and is %d", name, value, names[name])
		}
	}
	return nil
}

// --- The election. ------------------------------------------------------------------------------------------------

const electionPrefix = "election"

// lead becomes the leader, proclaims some values and resigns.
func lead(ctx context.Context, client *clientv3.Client, who int) error {
	session, err := concurrency.NewSession(client, concurrency.WithTTL(sessionTTL), concurrency.WithContext(ctx))
	if err != nil {
		return fmt.Errorf("session: %w", err)
	}
	defer session.Close()
	e := concurrency.NewElection(session, electionPrefix)
	if err := e.Campaign(ctx, fmt.Sprintf("%d.0", who)); err != nil {
		return fmt.Errorf("campaign: %w", err)
	}
	for i := range 3 {
		if err := e.Proclaim(ctx, fmt.Sprintf("%d.%d", who, i+1)); err != nil {
			return fmt.Errorf("proclaim: %w", err)
		}
	}
	return e.Resign(ctx)
}

// observe follows the leaders for some announcements. A leader's key is made when it campaigns: whoever leads later
// came later, and no announcement of a leader is older than its one before.
func observe(ctx context.Context, client *clientv3.Client, c *crowd) error {
	session, err := concurrency.NewSession(client, concurrency.WithTTL(sessionTTL), concurrency.WithContext(ctx))
	if err != nil {
		return fmt.Errorf("session: %w", err)
	}
	defer session.Close()
	created, changed := int64(0), int64(0)
	n := 0
	for resp := range concurrency.NewElection(session, electionPrefix).Observe(ctx) {
		kv := resp.Kvs[0]
		if kv.CreateRevision < created || kv.CreateRevision == created && kv.ModRevision < changed {
			c.fail("observed leader %s, created at %d and changed at %d, behind one of %d and %d", kv.Value,
				kv.CreateRevision, kv.ModRevision, created, changed)
		}
		created, changed = kv.CreateRevision, kv.ModRevision
		if n++; n == 10 {
			return nil
		}
	}
	return errUnwatched
}

// --- STM. ---------------------------------------------------------------------------------------------------------

func account(i int) string { return fmt.Sprintf("account/%d", i) }

// transfer moves something from one account to another, at each level of isolation that keeps the sum.
func transfer(ctx context.Context, client *clientv3.Client, rng *rand.Rand) error {
	from, amount := rng.IntN(accountCount), 1+rng.IntN(startBalance/4)
	to := (from + 1 + rng.IntN(accountCount-1)) % accountCount
	level := []concurrency.Isolation{concurrency.SerializableSnapshot, concurrency.Serializable,
		concurrency.RepeatableReads}[rng.IntN(3)]
	_, err := concurrency.NewSTM(client, func(s concurrency.STM) error {
		a, err1 := strconv.Atoi(s.Get(account(from)))
		b, err2 := strconv.Atoi(s.Get(account(to)))
		if err1 != nil || err2 != nil || a < amount {
			return errors.Join(err1, err2)
		}
		s.Put(account(from), strconv.Itoa(a-amount))
		s.Put(account(to), strconv.Itoa(b+amount))
		return nil
	}, concurrency.WithIsolation(level), concurrency.WithAbortContext(ctx))
	return err
}

// audit adds the accounts up as they are at one revision.
func audit(ctx context.Context, client *clientv3.Client, c *crowd) error {
	resp, err := client.Get(ctx, "account/", clientv3.WithPrefix())
	if err != nil {
		return err
	}
	sum := 0
	for _, kv := range resp.Kvs {
		n, err := strconv.Atoi(string(kv.Value))
		if err != nil || n < 0 {
			c.fail("%s holds %q", kv.Key, kv.Value)
		}
		sum += n
	}
	if sum != accountCount*startBalance || len(resp.Kvs) != accountCount {
		c.fail("%d accounts hold %d at revision %d, should be %d and %d", len(resp.Kvs), sum, resp.Header.Revision,
			accountCount, accountCount*startBalance)
	}
	time.Sleep(5 * time.Millisecond) // It is not to be the load.
	return nil
}

// TestCounterCheck plants what a mutex that two have would make of the counter.
func TestCounterCheck(t *testing.T) {
	made := map[string]int64{"a": 1, "b": 2}
	if err := checkCounter([]string{"1 a", "2 b", "3 c"}, made); err != nil {
		t.Error(err)
	}
	for _, texts := range [][]string{
		{"1 a", "2 b", "2 c"}, {"1 a", "2 b", "3 b"}, {"1 a", "2 c"}, {"1 b", "2 a"}, {"1 a"}, {"2 a", "3 b"}, {"x"}, {"1 a", "3 b"},
	} {
		if checkCounter(texts, made) == nil {
			t.Errorf("accepted %v", texts)
		}
	}
}

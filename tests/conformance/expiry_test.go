// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"cairn/tests/harness"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// brief leases of every class: shorter than the least time to live, at it, above it; with keys, with none; kept
// alive, revoked, left alone. A key that changes hands goes with its last lease.
var briefLeases = []struct {
	ttl    int64
	keys   string // In the order in which they are put.
	renew  int    // How often it is kept alive, a second apart.
	revoke bool
}{
	{1, "b a c", 0, false}, {2, "z y", 0, false}, {3, "k", 0, false}, {4, "m2 m1 m3", 0, false}, {5, "shared", 0, false},
	{3, "shared other", 0, false}, {2, "kept2 kept1", 3, false}, {1, "kept0", 4, false}, {3, "revoked2 revoked1", 1, true},
	{4, "", 0, false}, {1, "", 2, false}, {6, "late", 0, false}, {3, "taken", 0, false},
}

const (
	expiryLate  = 2 * time.Second // A lease's keys are gone by then after its time,
	expirySlack = 4 * time.Second // and so much later on a machine that is busy.
)

// lived is what became of one lease.
type lived struct {
	granted   int64 // The TTL that the server said.
	renewed   []int64
	deleted   string // Its keys in the order of their events, and whether they are of one revision.
	rev       int64
	asked     time.Time
	gone      time.Time
	remaining string
}

// errStoodStill says that a lease's whole time passed before it was used, kept alive or revoked as it should have been.
var errStoodStill = errors.New("the machine stood still for as long as a lease lives")

func (l *lived) overdue() bool { return time.Since(l.asked) >= time.Duration(l.granted)*time.Second }

// excuse is for an error of a call that needs the lease.
func (l *lived) excuse(err error) error {
	if errors.Is(err, rpctypes.ErrLeaseNotFound) && l.overdue() {
		return errStoodStill
	}
	return err
}

// liveLeases takes a server through all leases and returns what became of them; if the machine stood still, another one.
func liveLeases(t *testing.T, kind harness.Kind) []lived {
	t.Helper()
	for try := 1; ; try++ {
		list, err := liveOnce(t, kind)
		if err == nil {
			return list
		}
		if try == 5 || !errors.Is(err, errStoodStill) {
			t.Fatalf("%s: %v", kind, err)
		}
		t.Logf("%s, try %d: %v", kind, try, err)
	}
}

func liveOnce(t *testing.T, kind harness.Kind) ([]lived, error) {
	s := harness.StartForTest(t, kind)
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{s.Addr()}, Logger: zap.NewNop()})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	events := c.Watch(ctx, "", clientv3.WithPrefix(), clientv3.WithFilterPut())
	list := make([]lived, len(briefLeases))
	for i, x := range briefLeases {
		id := int64(100 + i)
		list[i].asked = time.Now()
		resp, err := pb.NewLeaseClient(c.ActiveConnection()).LeaseGrant(ctx, &pb.LeaseGrantRequest{ID: id, TTL: x.ttl})
		if err != nil {
			return nil, err
		}
		list[i].granted = resp.TTL
		for _, key := range strings.Fields(x.keys) {
			if _, err := c.Put(ctx, key, fmt.Sprint(i), clientv3.WithLease(clientv3.LeaseID(id))); err != nil {
				return nil, list[i].excuse(err)
			}
		}
	}
	if _, err := c.Put(ctx, "taken", "without a lease"); err != nil { // Stays.
		return nil, err
	}
	if list[len(list)-1].overdue() { // It may have ended with the key.
		return nil, errStoodStill
	}
	gone := make(chan error, 1)
	go func() { gone <- collectDeletes(list, events) }()
	if err := keepBriefly(ctx, c, list); err != nil {
		return nil, err
	}
	if err := <-gone; err != nil {
		return nil, err
	}
	for i := range list {
		left, err := c.TimeToLive(ctx, clientv3.LeaseID(100+i), clientv3.WithAttachedKeys())
		if err != nil {
			return nil, err
		}
		list[i].remaining = fmt.Sprint(left.TTL, left.GrantedTTL, left.Keys)
	}
	rest, err := c.Get(ctx, "", clientv3.WithPrefix())
	if err != nil {
		return nil, err
	}
	if len(rest.Kvs) != 1 || string(rest.Kvs[0].Key) != "taken" {
		t.Errorf("%s: left are %v", kind, rest.Kvs)
	}
	return list, nil
}

// keepBriefly keeps some leases alive every second, and then revokes some.
func keepBriefly(ctx context.Context, c *clientv3.Client, list []lived) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for round := 1; round <= 4; round++ {
		<-tick.C
		for i, x := range briefLeases {
			id := clientv3.LeaseID(100 + i)
			if x.renew >= round {
				asked := time.Now()
				resp, err := c.KeepAliveOnce(ctx, id)
				if err != nil {
					return fmt.Errorf("lease %d, renewed %d times before: %w", id, round-1, list[i].excuse(err))
				}
				list[i].asked = asked
				list[i].renewed = append(list[i].renewed, resp.TTL)
			} else if x.revoke && x.renew+1 == round {
				if _, err := c.Revoke(ctx, id); err != nil {
					return fmt.Errorf("lease %d: %w", id, list[i].excuse(err))
				}
			}
		}
	}
	return nil
}

// collectDeletes notes when which keys go until all have gone.
func collectDeletes(list []lived, events clientv3.WatchChan) error {
	owner, left := map[string]int{}, 0
	for i, x := range briefLeases { // The last one has the key.
		for _, key := range strings.Fields(x.keys) {
			owner[key] = i
		}
	}
	delete(owner, "taken")
	left = len(owner)
	for left > 0 {
		resp, ok := <-events
		if !ok || resp.Err() != nil {
			return fmt.Errorf("%d keys are still there: %v", left, resp.Err())
		}
		for _, e := range resp.Events {
			if e.Type != mvccpb.Event_DELETE {
				continue
			}
			i := owner[string(e.Kv.Key)]
			first := list[i].deleted == ""
			list[i].deleted += fmt.Sprintf(" %s", e.Kv.Key)
			if !first && e.Kv.ModRevision != list[i].rev {
				list[i].deleted += " (in another revision)"
			}
			list[i].gone, list[i].rev = time.Now(), e.Kv.ModRevision
			left--
		}
	}
	return nil
}

// TestLeaseExpiry lets leases of all classes end on etcd and on Cairn: the same times to live, the same keys in the
// same order in one revision each, never early and not late.
func TestLeaseExpiry(t *testing.T) {
	harness.CairnBin(t)
	compareExpiry(t, harness.Cairn)
}

// TestLeaseExpiryOracle proves that etcd passes the comparison with itself.
func TestLeaseExpiryOracle(t *testing.T) { compareExpiry(t, harness.Etcd) }

func compareExpiry(t *testing.T, subject harness.Kind) {
	want, got := liveLeases(t, harness.Etcd), liveLeases(t, subject)
	for _, d := range expiryDifferences(want, got) {
		t.Error(d)
	}
}

// expiryDifferences says in what two servers' leases differed and which did not end in time.
func expiryDifferences(etcd, cairn []lived) (found []string) {
	for i, x := range briefLeases {
		a, b := etcd[i], cairn[i]
		if a.granted != b.granted || fmt.Sprint(a.renewed) != fmt.Sprint(b.renewed) || a.deleted != b.deleted ||
			a.remaining != b.remaining {
			found = append(found, fmt.Sprintf("lease %d %+v\n etcd:  %+v\n cairn: %+v", 100+i, x, a, b))
		}
		for j, l := range []lived{a, b} {
			took, due := l.gone.Sub(l.asked), time.Duration(l.granted)*time.Second
			early, late := took < due && !x.revoke, took > due+expiryLate+expirySlack
			if !l.gone.IsZero() && (early || late) {
				found = append(found, fmt.Sprintf("%s: lease %d %+v of %v lived %v", sideNames[j], 100+i, x, due, took))
			}
		}
	}
	return found
}

// TestLeaseExpiryDifferences plants differences into the lives of leases.
func TestLeaseExpiryDifferences(t *testing.T) {
	start := time.Now()
	sound := func() []lived {
		list := make([]lived, len(briefLeases))
		for i, x := range briefLeases {
			list[i] = lived{granted: max(2, x.ttl), deleted: " " + x.keys, asked: start, remaining: "-1 0 []",
				gone: start.Add(time.Duration(max(2, x.ttl))*time.Second + 300*time.Millisecond)}
		}
		return list
	}
	if d := expiryDifferences(sound(), sound()); len(d) > 0 {
		t.Errorf("no difference, but: %v", d)
	}
	for name, plant := range map[string]func(*lived){
		"a longer time":         func(l *lived) { l.granted++ },
		"renewed for more":      func(l *lived) { l.renewed = append(l.renewed, 3) },
		"another order":         func(l *lived) { l.deleted = " a b c" },
		"several revisions":     func(l *lived) { l.deleted += " (in another revision)" },
		"still there":           func(l *lived) { l.remaining = "1 2 []" },
		"early":                 func(l *lived) { l.gone = l.asked.Add(1900 * time.Millisecond) },
		"late":                  func(l *lived) { l.gone = l.asked.Add(9 * time.Second) },
		"early because renewed": func(l *lived) { l.asked = l.asked.Add(time.Second) },
	} {
		list := sound()
		plant(&list[0])
		if len(expiryDifferences(sound(), list)) == 0 {
			t.Errorf("%s: not found", name)
		}
	}
}

// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cairn/tests/harness"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestClientPutGetDelete(t *testing.T) {
	s := sharedServer(t, harness.Cairn)
	c, ctx := newClient(t, s), harness.Context(t, time.Minute)
	prefix := unique(t, "")
	for i := 0; i < 20; i++ {
		_, err := c.Put(ctx, fmt.Sprintf("%s%02d", prefix, i), fmt.Sprint(i))
		must(t, err)
	}
	got, err := c.Get(ctx, prefix, clientv3.WithPrefix())
	must(t, err)
	if got.Count != 20 || len(got.Kvs) != 20 || string(got.Kvs[7].Value) != "7" {
		t.Errorf("prefix: %d of %d", len(got.Kvs), got.Count)
	}
	got, err = c.Get(ctx, prefix, clientv3.WithPrefix(), clientv3.WithLimit(5),
		clientv3.WithSort(clientv3.SortByModRevision, clientv3.SortDescend))
	must(t, err)
	if len(got.Kvs) != 5 || !got.More || got.Count != 20 || string(got.Kvs[0].Value) != "19" {
		t.Errorf("sorted and limited: %d, more %v, count %d", len(got.Kvs), got.More, got.Count)
	}
	put, err := c.Put(ctx, prefix+"00", "again", clientv3.WithPrevKV())
	must(t, err)
	if put.PrevKv == nil || string(put.PrevKv.Value) != "0" {
		t.Errorf("previous version: %v", put.PrevKv)
	}
	old, err := c.Get(ctx, prefix+"00", clientv3.WithRev(put.Header.Revision-1))
	must(t, err)
	if string(old.Kvs[0].Value) != "0" {
		t.Errorf("at the revision before: %s", old.Kvs[0].Value)
	}
	del, err := c.Delete(ctx, prefix, clientv3.WithPrefix(), clientv3.WithPrevKV())
	must(t, err)
	if del.Deleted != 20 || len(del.PrevKvs) != 20 {
		t.Errorf("deleted %d, %d previous versions", del.Deleted, len(del.PrevKvs))
	}
	if _, err := c.Put(ctx, "", "x"); !errors.Is(err, rpctypes.ErrEmptyKey) {
		t.Errorf("empty key: %v", err)
	}
	if _, err := c.Get(ctx, "a", clientv3.WithRev(put.Header.Revision+1000)); !errors.Is(err, rpctypes.ErrFutureRev) {
		t.Errorf("future revision: %v", err)
	}
}

func TestClientTxnAndCompact(t *testing.T) {
	s := harness.StartForTest(t, harness.Cairn)
	c, ctx := newClient(t, s), harness.Context(t, time.Minute)
	key := "k"
	create := func() bool {
		resp, err := c.Txn(ctx).If(clientv3.Compare(clientv3.CreateRevision(key), "=", 0)).
			Then(clientv3.OpPut(key, "v")).Else(clientv3.OpGet(key)).Commit()
		must(t, err)
		return resp.Succeeded
	}
	if !create() || create() {
		t.Error("a key was created twice or never")
	}
	nested, err := c.Txn(ctx).Then(
		clientv3.OpTxn([]clientv3.Cmp{clientv3.Compare(clientv3.Value(key), "=", "v")},
			[]clientv3.Op{clientv3.OpPut(key, "w")}, nil),
		clientv3.OpGet(key)).Commit()
	must(t, err)
	if got := nested.Responses[1].GetResponseRange().Kvs[0]; string(got.Value) != "w" || got.Version != 2 {
		t.Errorf("after a nested put: %v", got)
	}
	var revision int64
	for i := 0; i < 50; i++ {
		resp, err := c.Put(ctx, key, fmt.Sprint(i))
		must(t, err)
		revision = resp.Header.Revision
	}
	_, err = c.Compact(ctx, revision-5, clientv3.WithCompactPhysical())
	must(t, err)
	if _, err := c.Get(ctx, key, clientv3.WithRev(revision-6)); !errors.Is(err, rpctypes.ErrCompacted) {
		t.Errorf("compacted: %v", err)
	}
	if _, err := c.Compact(ctx, revision-5); !errors.Is(err, rpctypes.ErrCompacted) {
		t.Errorf("compacted twice: %v", err)
	}
	got, err := c.Get(ctx, key, clientv3.WithRev(revision-5))
	must(t, err)
	if string(got.Kvs[0].Value) != "44" {
		t.Errorf("at the compact revision: %s", got.Kvs[0].Value)
	}
}

func TestClientLeases(t *testing.T) {
	s := harness.StartForTest(t, harness.Cairn)
	c, ctx := newClient(t, s), harness.Context(t, time.Minute)
	l, err := c.Grant(ctx, 1000)
	must(t, err)
	for i := 0; i < 3; i++ {
		_, err = c.Put(ctx, fmt.Sprintf("k%d", i), "v", clientv3.WithLease(l.ID))
		must(t, err)
	}
	if _, err := c.Put(ctx, "x", "v", clientv3.WithLease(l.ID+1)); !errors.Is(err, rpctypes.ErrLeaseNotFound) {
		t.Errorf("unknown lease: %v", err)
	}
	live, err := c.TimeToLive(ctx, l.ID, clientv3.WithAttachedKeys())
	must(t, err)
	if len(live.Keys) != 3 || live.TTL < 990 || live.GrantedTTL != 1000 {
		t.Errorf("time to live: %+v", live)
	}
	all, err := c.Leases(ctx)
	must(t, err)
	if len(all.Leases) != 1 || all.Leases[0].ID != l.ID {
		t.Errorf("leases: %+v", all.Leases)
	}
	_, err = c.Revoke(ctx, l.ID)
	must(t, err)
	got, err := c.Get(ctx, "k", clientv3.WithPrefix(), clientv3.WithCountOnly())
	must(t, err)
	if got.Count != 0 {
		t.Errorf("%d keys outlived their lease", got.Count)
	}
	if _, err := c.Revoke(ctx, l.ID); !errors.Is(err, rpctypes.ErrLeaseNotFound) {
		t.Errorf("revoked twice: %v", err)
	}
}

func TestClientRangeStream(t *testing.T) {
	s := sharedServer(t, harness.Cairn)
	c, ctx := newClient(t, s), harness.Context(t, time.Minute)
	prefix := unique(t, "")
	value := strings.Repeat("x", 10000)
	for i := 0; i < 300; i++ {
		_, err := c.Put(ctx, fmt.Sprintf("%s%03d", prefix, i), value)
		must(t, err)
	}
	stream, err := c.GetStream(ctx, prefix, clientv3.WithPrefix())
	must(t, err)
	resp, err := clientv3.GetStreamToGetResponse(stream)
	must(t, err)
	if len(resp.Kvs) != 300 || resp.Count != 300 || resp.More || resp.Header == nil {
		t.Errorf("%d keys, count %d, more %v, header %v", len(resp.Kvs), resp.Count, resp.More, resp.Header)
	}
	for i, kv := range resp.Kvs {
		if string(kv.Key) != fmt.Sprintf("%s%03d", prefix, i) || len(kv.Value) != len(value) {
			t.Fatalf("key %d is %s with %d bytes", i, kv.Key, len(kv.Value))
		}
	}
}

func TestClientBigValues(t *testing.T) {
	s := sharedServer(t, harness.Cairn)
	c, ctx := newClient(t, s), harness.Context(t, time.Minute)
	key := unique(t, "big")
	for _, size := range []int{1, 4095, 4096, 65536, 1 << 20, 1500000} {
		value := bytes.Repeat([]byte{byte(size), 7}, (size+1)/2)[:size]
		_, err := c.Put(ctx, key, string(value))
		must(t, err)
		got, err := c.Get(ctx, key)
		must(t, err)
		if !bytes.Equal(got.Kvs[0].Value, value) {
			t.Errorf("%d bytes came back as %d, or changed", size, len(got.Kvs[0].Value))
		}
	}
	_, err := c.Put(ctx, key, strings.Repeat("x", 1600<<10))
	if !errors.Is(err, rpctypes.ErrRequestTooLarge) {
		t.Errorf("1.6 MiB: %v", err)
	}
	// Beyond the receive limit, 1.5 MiB and 512 KiB more, the transport refuses.
	conn, err := s.Dial()
	must(t, err)
	defer conn.Close()
	_, err = pb.NewKVClient(conn).Put(ctx, &pb.PutRequest{Key: []byte(key), Value: make([]byte, 3<<20)})
	if status.Code(err) != codes.ResourceExhausted {
		t.Errorf("3 MiB: %v", err)
	}
	got, err := c.Get(ctx, key)
	must(t, err)
	if len(got.Kvs[0].Value) != 1500000 {
		t.Errorf("a refused put changed the value: %d bytes", len(got.Kvs[0].Value))
	}
}

func TestClientDeadlineAndCancel(t *testing.T) {
	s := sharedServer(t, harness.Cairn)
	c := newClient(t, s)
	ctx := harness.Context(t, time.Minute)
	key := unique(t, "k")
	for i := 0; i < 200; i++ {
		short, cancel := context.WithTimeout(ctx, time.Duration(i)*20*time.Microsecond)
		_, err := c.Put(short, key, fmt.Sprint(i))
		cancel()
		if err != nil && !errors.Is(err, context.DeadlineExceeded) && status.Code(err) != codes.DeadlineExceeded {
			t.Fatalf("deadline: %v", err)
		}
	}
	for i := 0; i < 200; i++ {
		stopped, cancel := context.WithCancel(ctx)
		go func() { time.Sleep(time.Duration(i) * 10 * time.Microsecond); cancel() }()
		_, err := c.Get(stopped, key)
		if err != nil && !errors.Is(err, context.Canceled) && status.Code(err) != codes.Canceled {
			t.Fatalf("cancel: %v", err)
		}
		cancel()
	}
	_, err := c.Put(ctx, key, "after")
	must(t, err)
}

func TestClientHundredAtOnce(t *testing.T) {
	s := sharedServer(t, harness.Cairn)
	ctx := harness.Context(t, 2*time.Minute)
	prefix := unique(t, "")
	const clients, puts = 100, 30
	var wg sync.WaitGroup
	var sum atomic.Int64
	revisions := make([]map[int64]bool, clients)
	var list []*clientv3.Client
	for range clients {
		list = append(list, newClient(t, s))
	}
	for i, c := range list {
		revisions[i] = map[int64]bool{}
		wg.Add(1)
		go func() {
			defer wg.Done()
			key := fmt.Sprintf("%s%d", prefix, i)
			for n := 1; n <= puts; n++ {
				resp, err := c.Put(ctx, key, fmt.Sprint(n))
				if err != nil {
					t.Errorf("client %d: %v", i, err)
					return
				}
				revisions[i][resp.Header.Revision] = true
				got, err := c.Get(ctx, key)
				if err != nil || len(got.Kvs) != 1 || string(got.Kvs[0].Value) != fmt.Sprint(n) {
					t.Errorf("client %d does not read its own write %d: %v %v", i, n, got, err)
					return
				}
				sum.Add(1)
			}
		}()
	}
	wg.Wait()
	all := map[int64]bool{}
	for _, m := range revisions {
		for r := range m {
			if all[r] {
				t.Errorf("revision %d was given twice", r)
			}
			all[r] = true
		}
	}
	if sum.Load() != clients*puts {
		t.Errorf("%d writes of %d", sum.Load(), clients*puts)
	}
}

func TestClientMaintenanceAndMembers(t *testing.T) {
	s := harness.StartForTest(t, harness.Cairn)
	c, ctx := newClient(t, s), harness.Context(t, time.Minute)
	_, err := c.Put(ctx, "k", "v")
	must(t, err)
	st, err := c.Status(ctx, s.Addr())
	must(t, err)
	if st.Version != "3.7.1" || st.Leader != st.Header.MemberId || st.Header.Revision != 2 || st.RaftAppliedIndex == 0 ||
		st.RaftIndex < st.RaftAppliedIndex || st.DbSize <= 0 || st.IsLearner || len(st.Errors) != 0 {
		t.Errorf("status: %+v", st)
	}
	members, err := c.MemberList(ctx)
	must(t, err)
	if len(members.Members) != 1 || members.Members[0].ID != st.Header.MemberId || members.Members[0].Name != "default" ||
		len(members.Members[0].ClientURLs) != 1 || members.Members[0].ClientURLs[0] != s.URL() {
		t.Errorf("members: %+v", members.Members)
	}
	_, err = c.Defragment(ctx, s.Addr())
	must(t, err)
	hash, err := c.HashKV(ctx, s.Addr(), 0)
	must(t, err)
	if hash.HashRevision != 2 || hash.CompactRevision != -1 {
		t.Errorf("hash: %+v", hash)
	}
	must(t, c.Sync(ctx)) // Takes the endpoints from the member list.
	if ep := c.Endpoints(); len(ep) != 1 || ep[0] != s.URL() {
		t.Errorf("endpoints after sync: %v", ep)
	}
}

// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
)

// Worked examples with literal values, most of them taken from a running etcd 3.7.1. Each also runs against etcd
// here, so a wrong value in the table is found out.

const (
	errCompacted  = "etcdserver: mvcc: required revision has been compacted"
	errFuture     = "etcdserver: mvcc: required revision is a future revision"
	errEmptyKey   = "etcdserver: key is not provided"
	errSort       = "etcdserver: invalid sort option"
	errNotFound   = "etcdserver: key not found"
	errNoLease    = "etcdserver: requested lease not found"
	errOps        = "etcdserver: too many operations in txn request"
	errDuplicate  = "etcdserver: duplicate key given in txn request"
	errTooLarge   = "etcdserver: request is too large"
	errValueGiven = "etcdserver: value is provided"
	errLeaseGiven = "etcdserver: lease is provided"
)

func TestExamplesHashHistory(t *testing.T) {
	eachServer(t, func(c *client) {
		c.wantHash(0, 1084519789, -1, 1)
		c.put("a", "1")
		c.wantHash(0, 2587454935, -1, 2)
		c.put("a", "2")
		c.wantHash(0, 535221974, -1, 3)
		c.put("b", "x")
		c.wantHash(0, 1523780942, -1, 4)
		c.del("a", "")
		c.wantHash(0, 3909293975, -1, 5)
		c.wantHash(4, 1523780942, -1, 4)
		c.put("c", "y")
		c.wantHash(0, 180387283, -1, 6)
		c.compact(5)
		c.wantHash(0, 2618167811, 5, 6)
		c.wantHash(6, 2618167811, 5, 6)
		c.wantHash(5, 3909293975, -1, 5) // The hash of before the compaction.
		c.refuse("HashKV", &pb.HashKVRequest{Revision: 4}, codes.OutOfRange, errCompacted)
		c.refuse("HashKV", &pb.HashKVRequest{Revision: 7}, codes.OutOfRange, errFuture)
		c.restart()
		c.wantHash(5, 3966414695, 5, 5)
		c.put("a", "3")
		c.wantHash(0, 3721109742, 5, 7)
		c.del("\x00", "\x00")
		c.wantHash(0, 3572419029, 5, 8)
		c.compact(8)
		c.wantHash(0, 1084519789, 8, 8) // The cache is asked before 0 comes to mean 8.
		c.wantHash(8, 4252656001, 5, 8)
	})
}

func TestExamplesHashEmptyKeepSet(t *testing.T) {
	eachServer(t, func(c *client) {
		c.put("a", "1")
		c.compact(2)
		c.del("a", "")
		c.wantHash(0, 3520211144, 2, 3)
	})
}

func TestExamplesHashCompactZero(t *testing.T) {
	eachServer(t, func(c *client) {
		c.refuse("Compact", &pb.CompactionRequest{Revision: -1}, codes.OutOfRange, errCompacted)
		c.compact(0)
		c.wantHash(0, 1084519789, -1, 0)
		c.refuse("Compact", &pb.CompactionRequest{Revision: 0}, codes.OutOfRange, errCompacted)
		c.put("a", "1")
		c.wantHash(0, 1084519789, -1, 0)
		c.wantHash(-5, 1084519789, 0, -5)
		for i := int64(0); i < 10; i++ {
			c.compact(c.put("a", "2"))
		}
		c.wantHash(c.current()-9, must[*pb.HashKVResponse](c, "HashKV", &pb.HashKVRequest{Revision: c.current() - 9}).Hash,
			0, c.current()-9)
		r := must[*pb.HashKVResponse](c, "HashKV", &pb.HashKVRequest{})
		want(c, "hash revision after ten compactions", r.HashRevision, c.current())
	})
}

func TestExamplesHashDeleteAndRecreate(t *testing.T) {
	eachServer(t, func(c *client) {
		open := func() *pb.RequestOp { return deleteOp(delRequest("n", "\x00")) }
		put := func(key, value string) *pb.RequestOp {
			return putOp(&pb.PutRequest{Key: []byte(key), Value: []byte(value)})
		}
		txn := func(ops ...*pb.RequestOp) { c.txn(&pb.TxnRequest{Success: ops}) }
		c.grant(5, 1000)
		c.put("n", "1", 5)
		c.put("n", "2", 5)
		txn(open(), put("n", "3"))
		txn(put("n", "4"), open())
		c.put("n", "5")
		// A key may be put only once in a list, so the last of these deletes comes from the open end as well.
		txn(open(), put("n", "3"), open())
		c.put("o", "5")
		c.put("n", "6")
		want(c, "current", c.current(), 9)
		c.wantHash(0, 3649426182, -1, 9)
		txn(open(), put("n", "7"))
		want(c, "current", c.current(), 10)
		c.wantHash(0, 389787376, -1, 10)
	})
}

func TestExamplesRangeChecks(t *testing.T) {
	eachServer(t, func(c *client) {
		all := []byte{0}
		for i := 0; i < 4; i++ {
			c.put(string(rune('a'+i)), "v")
		}
		c.compact(3)
		c.refuse("Range", &pb.RangeRequest{SortOrder: 9}, codes.InvalidArgument, errEmptyKey)
		c.refuse("Range", &pb.RangeRequest{Key: all, SortOrder: 3, Revision: 99}, codes.InvalidArgument, errSort)
		c.refuse("Range", &pb.RangeRequest{Key: all, SortTarget: -1, CountOnly: true}, codes.InvalidArgument, errSort)
		c.refuse("Range", &pb.RangeRequest{Key: all, Revision: 6}, codes.OutOfRange, errFuture)
		c.refuse("Range", &pb.RangeRequest{Key: all, Revision: 2}, codes.OutOfRange, errCompacted)
		wantKeys(t, c.get(&pb.RangeRequest{Key: all, RangeEnd: all, Revision: 3}), "a b")
		wantKeys(t, c.get(&pb.RangeRequest{Key: all, RangeEnd: all, Revision: -7}), "a b c d")
		wantKeys(t, c.get(&pb.RangeRequest{Key: []byte("b"), RangeEnd: all}), "b c d")
		wantKeys(t, c.get(&pb.RangeRequest{Key: []byte("b"), RangeEnd: []byte("d")}), "b c")
		r := c.get(&pb.RangeRequest{Key: []byte("d"), RangeEnd: []byte("b")})
		want(c, "count of a reversed range", r.Count, 0)
		want(c, "header revision of an old read", c.get(&pb.RangeRequest{Key: all, Revision: 4}).Header.Revision, 5)

		inner := func(revision int64) *pb.TxnRequest {
			return &pb.TxnRequest{Success: []*pb.RequestOp{rangeOp(&pb.RangeRequest{Key: all, Revision: revision})}}
		}
		c.refuse("Txn", inner(-1), codes.OutOfRange, errCompacted)
		c.refuse("Txn", inner(2), codes.OutOfRange, errCompacted)
		c.refuse("Txn", inner(6), codes.OutOfRange, errFuture)
		c.txn(inner(3))
	})
}

func TestExamplesRangeNegativeRevisionInTxn(t *testing.T) {
	eachServer(t, func(c *client) {
		inner := func(revision int64) *pb.TxnRequest {
			op := rangeOp(&pb.RangeRequest{Key: []byte("a"), Revision: revision})
			return &pb.TxnRequest{Success: []*pb.RequestOp{op}}
		}
		c.put("a", "1")
		c.txn(inner(-1)) // Never compacted: the compact revision is -1.
		c.refuse("Txn", inner(-2), codes.OutOfRange, errCompacted)
	})
}

func TestExamplesRangePipeline(t *testing.T) {
	eachServer(t, func(c *client) {
		for _, key := range []string{"a", "a", "a", "b", "b", "c"} {
			c.put(key, "v")
		}
		a, d := []byte("a"), []byte("d")
		version := pb.RangeRequest_VERSION
		r := c.get(&pb.RangeRequest{Key: a, RangeEnd: d, SortTarget: version, Limit: 1})
		wantKeys(t, r, "b") // Two keys were fetched, a and b; then sorted; then cut.
		want(c, "more", r.More, true)
		want(c, "count", r.Count, 3)
		r = c.get(&pb.RangeRequest{Key: a, RangeEnd: d, SortTarget: version, SortOrder: pb.RangeRequest_ASCEND, Limit: 1})
		wantKeys(t, r, "c")
		r = c.get(&pb.RangeRequest{Key: a, RangeEnd: d, SortOrder: pb.RangeRequest_DESCEND, Limit: 2})
		wantKeys(t, r, "c b")
		r = c.get(&pb.RangeRequest{Key: a, RangeEnd: d, MinModRevision: 6, Limit: 1})
		wantKeys(t, r, "b")
		want(c, "count ignores filters", r.Count, 3)
		want(c, "more after filters", r.More, true)
		r = c.get(&pb.RangeRequest{Key: a, RangeEnd: d, MaxCreateRevision: -1})
		want(c, "a negative bound filters", len(r.Kvs), 0)
		r = c.get(&pb.RangeRequest{Key: a, RangeEnd: d, CountOnly: true, Limit: 1, MinModRevision: 6})
		want(c, "count_only", r.Count, 3)
		want(c, "count_only more", r.More, false)

		c.grant(5, 1000)
		c.put("l", "value", 5)
		l := []byte("l")
		kv := c.get(&pb.RangeRequest{Key: l, KeysOnly: true}).Kvs[0]
		want(c, "keys_only lease", kv.Lease, 0)
		want(c, "keys_only value", len(kv.Value), 0)
		kv = c.get(&pb.RangeRequest{Key: l, KeysOnly: true, SortTarget: pb.RangeRequest_VALUE}).Kvs[0]
		want(c, "keys_only lease when sorting by value", kv.Lease, 5)
		want(c, "keys_only value when sorting by value", len(kv.Value), 0)
	})
}

// versionLadder puts s00..s29 so that s_i has version 1 + (7i mod 5).
func versionLadder(c *client) {
	for i := 0; i < 30; i++ {
		for n := 0; n <= 7*i%5; n++ {
			c.put(fmt.Sprintf("s%02d", i), "v")
		}
	}
}

func TestExamplesSortTies(t *testing.T) {
	eachServer(t, func(c *client) {
		versionLadder(c)
		r := c.get(&pb.RangeRequest{Key: []byte("s"), RangeEnd: []byte("t"), SortTarget: pb.RangeRequest_VERSION,
			SortOrder: pb.RangeRequest_DESCEND})
		wantKeys(t, r, "s07 s27 s02 s22 s17 s12 s14 s19 s29 s09 s24 s04 s01 s11 s26 s06 s21 s16 s03 s18 s23 s13 s28 "+
			"s08 s20 s15 s00 s25 s05 s10")
		r = c.get(&pb.RangeRequest{Key: []byte("s"), RangeEnd: []byte("s12"), SortTarget: pb.RangeRequest_VERSION,
			SortOrder: pb.RangeRequest_DESCEND})
		wantKeys(t, r, "s02 s07 s04 s09 s01 s06 s11 s03 s08 s00 s05 s10") // Twelve: ties stay in key order.
	})
}

func TestExamplesRangeStream(t *testing.T) {
	eachServer(t, func(c *client) {
		for i := 0; i < 35; i++ {
			c.put(fmt.Sprintf("k%02d", i), "v")
		}
		all := func(limit int64) *pb.RangeRequest {
			return &pb.RangeRequest{Key: []byte("k"), RangeEnd: []byte("l"), Limit: limit}
		}
		want(c, "35 keys", chunks(c.stream(all(0))), "10 20 5 more false count 35")
		want(c, "limit 25", chunks(c.stream(all(25))), "10 15 more true count 35")
		want(c, "limit 7", chunks(c.stream(all(7))), "7 more true count 35")
		want(c, "limit 35", chunks(c.stream(all(35))), "10 20 5 more false count 35")
		want(c, "negative limit", chunks(c.stream(all(-1))), "35 more false count 35")
		list := c.stream(all(0))
		want(c, "header in the first chunk", list[0].Header == nil, true)
		want(c, "count in the first chunk", list[0].Count, 0)
		want(c, "header revision", list[2].Header.Revision, 36)
		count := all(0)
		count.CountOnly = true
		want(c, "count_only", chunks(c.stream(count)), "0 more false count 35")
		none := &pb.RangeRequest{Key: []byte("x"), RangeEnd: []byte("y")}
		want(c, "nothing", chunks(c.stream(none)), "0 more false count 0")

		bad := all(0)
		bad.SortOrder = pb.RangeRequest_DESCEND
		c.refuse("RangeStream", bad, codes.Unimplemented, "RangeStream does not support custom sort orders")
		bad.MinModRevision = 1
		c.refuse("RangeStream", bad, codes.Unimplemented, "RangeStream does not support custom sort orders")
		bad.SortOrder = pb.RangeRequest_NONE
		c.refuse("RangeStream", bad, codes.Unimplemented, "RangeStream does not support revision filters")
		c.refuse("RangeStream", &pb.RangeRequest{}, codes.InvalidArgument, errEmptyKey)
		old := all(0)
		old.Revision = 99
		c.refuse("RangeStream", old, codes.OutOfRange, errFuture)
	})
}

// The sizes of chunks follow the sizes of the answers.
func TestExamplesRangeStreamBigValues(t *testing.T) {
	eachServer(t, func(c *client) {
		value := strings.Repeat("x", 300<<10)
		for i := 0; i < 24; i++ {
			c.put(fmt.Sprintf("k%02d", i), value)
		}
		got := chunks(c.stream(&pb.RangeRequest{Key: []byte("k"), RangeEnd: []byte("l")}))
		want(c, "300 KiB values", got, "10 10 4 more false count 24")
		value = strings.Repeat("x", 600<<10)
		for i := 0; i < 24; i++ {
			c.put(fmt.Sprintf("k%02d", i), value)
		}
		got = chunks(c.stream(&pb.RangeRequest{Key: []byte("k"), RangeEnd: []byte("l")}))
		want(c, "600 KiB values", got, "10 5 5 4 more false count 24")
	})
}

func TestExamplesPut(t *testing.T) {
	eachServer(t, func(c *client) {
		key := []byte("aa")
		c.refuse("Put", &pb.PutRequest{}, codes.InvalidArgument, errEmptyKey)
		c.refuse("Put", &pb.PutRequest{Key: key, IgnoreValue: true, Value: []byte("v")}, codes.InvalidArgument, errValueGiven)
		c.refuse("Put", &pb.PutRequest{Key: key, IgnoreLease: true, Lease: 1}, codes.InvalidArgument, errLeaseGiven)
		c.refuse("Put", &pb.PutRequest{Key: key, IgnoreValue: true}, codes.InvalidArgument, errNotFound)
		c.refuse("Put", &pb.PutRequest{Key: key, IgnoreLease: true}, codes.InvalidArgument, errNotFound)
		c.refuse("Put", &pb.PutRequest{Key: key, IgnoreValue: true, Lease: 9}, codes.NotFound, errNoLease)
		c.refuse("Put", &pb.PutRequest{Key: key, Lease: -9}, codes.NotFound, errNoLease)
		want(c, "current after refused puts", c.current(), 1)
		c.refuse("DeleteRange", &pb.DeleteRangeRequest{}, codes.InvalidArgument, errEmptyKey)

		c.grant(-9, 1000)
		want(c, "first revision", c.put("aa", "1", -9), 2)
		r := must[*pb.PutResponse](c, "Put", &pb.PutRequest{Key: key, IgnoreValue: true, IgnoreLease: true, PrevKv: true})
		want(c, "previous lease", r.PrevKv.Lease, -9)
		kv := c.get(&pb.RangeRequest{Key: key}).Kvs[0]
		want(c, "value kept", string(kv.Value), "1")
		want(c, "lease kept", kv.Lease, -9)
		want(c, "version", kv.Version, 2)
		c.put("aa", "2")
		want(c, "lease taken off", c.get(&pb.RangeRequest{Key: key}).Kvs[0].Lease, 0)
		r = must[*pb.PutResponse](c, "Put", &pb.PutRequest{Key: []byte("new"), PrevKv: true})
		want(c, "no previous version", r.PrevKv == nil, true)

		want(c, "delete of nothing", c.del("x", "").Header.Revision, 5)
		want(c, "delete", c.del("aa", "").Header.Revision, 6)
		want(c, "put after delete", c.put("aa", "3"), 7)
		kv = c.get(&pb.RangeRequest{Key: key}).Kvs[0]
		want(c, "version starts again", kv.Version, 1)
		want(c, "create revision starts again", kv.CreateRevision, 7)
	})
}

func TestExamplesRequestSize(t *testing.T) {
	eachServer(t, func(c *client) {
		const limit = 1572864
		c.put("ab", strings.Repeat("x", limit-26))
		c.refuse("Put", &pb.PutRequest{Key: []byte("ab"), Value: make([]byte, limit)}, codes.InvalidArgument, errTooLarge)
		half := func(key string) *pb.RequestOp {
			return putOp(&pb.PutRequest{Key: []byte(key), Value: make([]byte, limit/2)})
		}
		c.refuse("Txn", &pb.TxnRequest{Success: []*pb.RequestOp{half("a"), half("b")}}, codes.InvalidArgument, errTooLarge)
		want(c, "current", c.current(), 2)
		kv := c.get(&pb.RangeRequest{Key: []byte("ab")}).Kvs[0]
		want(c, "size", len(kv.Value), limit-26)
	})
}

func TestExamplesTxnLimits(t *testing.T) {
	eachServer(t, func(c *client) {
		read := rangeOp(&pb.RangeRequest{Key: []byte("a")})
		times := func(n int, op *pb.RequestOp) (list []*pb.RequestOp) {
			for ; n > 0; n-- {
				list = append(list, op)
			}
			return list
		}
		nested := txnOp(&pb.TxnRequest{Success: times(1, read)})
		c.txn(&pb.TxnRequest{Success: times(128, read)})
		c.refuse("Txn", &pb.TxnRequest{Success: times(129, read)}, codes.InvalidArgument, errOps)
		c.refuse("Txn", &pb.TxnRequest{Failure: times(129, read)}, codes.InvalidArgument, errOps)
		compare := make([]*pb.Compare, 129)
		for i := range compare {
			compare[i] = &pb.Compare{Key: []byte("a")}
		}
		c.refuse("Txn", &pb.TxnRequest{Compare: compare}, codes.InvalidArgument, errOps)
		c.txn(&pb.TxnRequest{Success: append(times(126, read), nested)})
		c.refuse("Txn", &pb.TxnRequest{Success: append(times(127, read), nested)}, codes.InvalidArgument, errOps)

		c.refuse("Txn", &pb.TxnRequest{Compare: []*pb.Compare{{}}}, codes.InvalidArgument, errEmptyKey)
		c.refuse("Txn", &pb.TxnRequest{Success: []*pb.RequestOp{{}}}, codes.InvalidArgument, errNotFound)
		c.refuse("Txn", &pb.TxnRequest{Failure: []*pb.RequestOp{rangeOp(&pb.RangeRequest{})}}, codes.InvalidArgument, errEmptyKey)
		c.refuse("Txn", &pb.TxnRequest{Failure: []*pb.RequestOp{rangeOp(&pb.RangeRequest{Key: []byte("a"), SortOrder: 7})}},
			codes.InvalidArgument, errSort)
		empty := c.txn(&pb.TxnRequest{})
		want(c, "empty txn succeeds", empty.Succeeded, true)
		want(c, "empty txn revision", empty.Header.Revision, 1)
	})
}

func TestExamplesTxnOverlap(t *testing.T) {
	eachServer(t, func(c *client) {
		put := func(key string) *pb.RequestOp { return putOp(&pb.PutRequest{Key: []byte(key)}) }
		del := func(key, end string) *pb.RequestOp { return deleteOp(delRequest(key, end)) }
		both := func(success, failure []*pb.RequestOp) *pb.RequestOp {
			return txnOp(&pb.TxnRequest{Success: success, Failure: failure})
		}
		ops := func(list ...*pb.RequestOp) []*pb.RequestOp { return list }
		for _, x := range []struct {
			name string
			ops  []*pb.RequestOp
			ok   bool
		}{
			{"two puts", ops(put("a"), put("a")), false},
			{"put and delete", ops(put("a"), del("a", "")), false},
			{"delete and put", ops(del("a", ""), put("a")), false},
			{"put in a deleted range", ops(del("a", "c"), put("b")), false},
			{"put at the end of a deleted range", ops(del("a", "c"), put("c")), true},
			{"put in an open delete", ops(del("a", "\x00"), put("b")), true},
			{"open delete after put", ops(put("b"), del("a", "\x00")), true},
			{"deletes may overlap", ops(del("a", "c"), del("b", "d"), del("b", "")), true},
			{"same put in both branches", ops(both(ops(put("a")), ops(put("a")))), true},
			{"nested put and own put", ops(both(ops(put("a")), nil), put("a")), false},
			{"own put and nested put", ops(put("a"), both(nil, ops(put("a")))), false},
			{"own put in a nested delete", ops(put("a"), both(ops(del("a", "")), nil)), false},
			{"nested put in an own delete", ops(both(ops(put("a")), nil), del("a", "")), false},
			{"siblings, delete later", ops(both(ops(put("a")), nil), both(ops(del("a", "")), nil)), true},
			{"siblings, delete first", ops(both(ops(del("a", "")), nil), both(ops(put("a")), nil)), false},
			{"siblings, two puts", ops(both(ops(put("a")), nil), both(nil, ops(put("a")))), false},
			{"reversed delete", ops(del("c", "a"), put("b")), true},
		} {
			for _, r := range []*pb.TxnRequest{{Success: x.ops}, {Failure: x.ops}} {
				if x.ok {
					c.txn(r)
				} else {
					c.refuse("Txn", r, codes.InvalidArgument, errDuplicate)
				}
			}
			if t.Failed() {
				t.Fatalf("that was: %s", x.name)
			}
		}
	})
}

func TestExamplesCompare(t *testing.T) {
	eachServer(t, func(c *client) {
		c.put("a", "1")
		c.put("a", "2")
		c.put("b", "1")
		type p = pb.Compare
		version := func(v int64) *pb.Compare_Version { return &pb.Compare_Version{Version: v} }
		value := func(v string) *pb.Compare_Value { return &pb.Compare_Value{Value: []byte(v)} }
		a, b, none := []byte("a"), []byte("b"), []byte("none")
		for i, x := range []struct {
			cmp  *pb.Compare
			want bool
		}{
			{&p{Key: a, Target: pb.Compare_VERSION, TargetUnion: version(2)}, true},
			{&p{Key: a, Target: pb.Compare_VERSION, Result: pb.Compare_GREATER, TargetUnion: version(2)}, false},
			{&p{Key: none, Target: pb.Compare_VERSION, TargetUnion: version(0)}, true},
			{&p{Key: none, Target: pb.Compare_LEASE}, true},
			{&p{Key: none, Target: pb.Compare_MOD, Result: pb.Compare_LESS,
				TargetUnion: &pb.Compare_ModRevision{ModRevision: 1}}, true},
			{&p{Key: none, Target: pb.Compare_VALUE, TargetUnion: value("")}, false},
			{&p{Key: none, Target: pb.Compare_VALUE, Result: pb.Compare_NOT_EQUAL, TargetUnion: value("x")}, false},
			{&p{Key: a, Target: pb.Compare_VALUE, TargetUnion: value("2")}, true},
			{&p{Key: a, RangeEnd: []byte("c"), Target: pb.Compare_VALUE, Result: pb.Compare_GREATER, TargetUnion: value("0")}, true},
			{&p{Key: a, RangeEnd: []byte("c"), Target: pb.Compare_VALUE, TargetUnion: value("2")}, false},
			{&p{Key: b, RangeEnd: []byte{0}, Target: pb.Compare_VERSION, TargetUnion: version(1)}, true},
			{&p{Key: b, RangeEnd: a, Target: pb.Compare_VERSION, TargetUnion: version(0)}, true},
			{&p{Key: b, RangeEnd: a, Target: pb.Compare_VALUE, Result: pb.Compare_NOT_EQUAL, TargetUnion: value("")}, false},
			{&p{Key: a, Target: pb.Compare_VERSION, Result: pb.Compare_GREATER}, true},
			{&p{Key: a, Target: pb.Compare_VERSION, Result: pb.Compare_GREATER, TargetUnion: value("zzz")}, true},
			{&p{Key: a, Target: pb.Compare_VALUE, Result: pb.Compare_GREATER, TargetUnion: version(9)}, true},
			{&p{Key: a, Target: pb.Compare_VERSION, Result: 77, TargetUnion: version(9)}, true},
			{&p{Key: a, Target: 77, TargetUnion: version(9)}, true},
			{&p{Key: a, Target: 77, Result: pb.Compare_GREATER, TargetUnion: version(9)}, false},
		} {
			r := c.txn(&pb.TxnRequest{Compare: []*pb.Compare{x.cmp}})
			if r.Succeeded != x.want {
				t.Errorf("compare %d { %s }: want %v", i, brief(x.cmp), x.want)
			}
		}
	})
}

func TestExamplesTxnExecution(t *testing.T) {
	eachServer(t, func(c *client) {
		put := func(key string) *pb.RequestOp { return putOp(&pb.PutRequest{Key: []byte(key), Value: []byte("v")}) }
		read := func(key string) *pb.RequestOp { return rangeOp(&pb.RangeRequest{Key: []byte(key)}) }
		exists := &pb.Compare{Key: []byte("m1"), Target: pb.Compare_VERSION, Result: pb.Compare_GREATER}

		c.put("z", "v")
		c.refuse("Txn", &pb.TxnRequest{Success: []*pb.RequestOp{put("m1"),
			putOp(&pb.PutRequest{Key: []byte("m2"), IgnoreValue: true})}}, codes.InvalidArgument, errNotFound)
		c.refuse("Txn", &pb.TxnRequest{Success: []*pb.RequestOp{put("m1"),
			putOp(&pb.PutRequest{Key: []byte("m2"), Lease: 3})}}, codes.NotFound, errNoLease)
		want(c, "no effect", c.current(), 2)

		// Nested compares see the state before the whole txn: m1 does not exist for them.
		r := c.txn(&pb.TxnRequest{Success: []*pb.RequestOp{
			read("m1"), put("m1"), read("m1"),
			txnOp(&pb.TxnRequest{Compare: []*pb.Compare{exists}, Failure: []*pb.RequestOp{put("m2")}}),
			deleteOp(delRequest("none", "")), deleteOp(delRequest("z", "")),
		}})
		want(c, "revision", r.Header.Revision, 3)
		revisions := ""
		for _, op := range r.Responses {
			switch {
			case op.GetResponseRange() != nil:
				revisions += fmt.Sprintf("range %d ", op.GetResponseRange().Header.Revision)
			case op.GetResponsePut() != nil:
				revisions += fmt.Sprintf("put %d ", op.GetResponsePut().Header.Revision)
			case op.GetResponseDeleteRange() != nil:
				revisions += fmt.Sprintf("delete %d ", op.GetResponseDeleteRange().Header.Revision)
			case op.GetResponseTxn() != nil:
				n := op.GetResponseTxn()
				revisions += fmt.Sprintf("txn %v %d ", n.Succeeded, n.Header.Revision)
			}
		}
		want(c, "inner revisions", revisions, "range 2 put 3 range 3 txn false 0 delete 3 delete 3 ")
		want(c, "inner header", r.Responses[1].GetResponsePut().Header.ClusterId, 0)
		want(c, "z is gone", c.get(&pb.RangeRequest{Key: []byte("z")}).Count, 0)

		// A branch that isn't taken isn't checked.
		c.txn(&pb.TxnRequest{Compare: []*pb.Compare{exists}, Failure: []*pb.RequestOp{
			putOp(&pb.PutRequest{Key: []byte("x"), Lease: 3})}})
		// Deleting nothing in a txn takes no revision and its header shows the one before.
		d := c.txn(&pb.TxnRequest{Success: []*pb.RequestOp{deleteOp(delRequest("none", "")), put("y")}})
		want(c, "delete before the first change", d.Responses[0].GetResponseDeleteRange().Header.Revision, 3)
		want(c, "count of a range in a txn", c.txn(&pb.TxnRequest{Success: []*pb.RequestOp{rangeOp(&pb.RangeRequest{
			Key: []byte{0}, RangeEnd: []byte{0}, Limit: 1})}}).Responses[0].GetResponseRange().Count, 3)
	})
}

func TestExamplesCompaction(t *testing.T) {
	eachServer(t, func(c *client) {
		for i := 0; i < 3; i++ {
			c.put("a", fmt.Sprint(i)) // 2, 3, 4
		}
		c.del("a", "")  // 5
		c.put("a", "n") // 6
		c.put("b", "n") // 7
		c.refuse("Compact", &pb.CompactionRequest{Revision: 8}, codes.OutOfRange, errFuture)
		c.refuse("Compact", &pb.CompactionRequest{Revision: math.MaxInt64}, codes.OutOfRange, errFuture)
		want(c, "header", c.compact(3).Header.Revision, 7)
		c.refuse("Compact", &pb.CompactionRequest{Revision: 3}, codes.OutOfRange, errCompacted)
		c.refuse("Compact", &pb.CompactionRequest{Revision: 3, Physical: true}, codes.OutOfRange, errCompacted)
		at := func(revision int64) *pb.RangeRequest { return &pb.RangeRequest{Key: []byte("a"), Revision: revision} }
		want(c, "at the compact revision", string(c.get(at(3)).Kvs[0].Value), "1")
		c.refuse("Range", at(2), codes.OutOfRange, errCompacted)
		c.compact(5)
		want(c, "the deletion", c.get(at(5)).Count, 0)
		c.restart()
		want(c, "the deletion after a restart", c.get(at(5)).Count, 0)
		c.refuse("Range", at(4), codes.OutOfRange, errCompacted)
		want(c, "version", c.get(at(0)).Kvs[0].Version, 1)
		c.del("\x00", "\x00") // 8
		c.compact(8)
		c.restart()
		want(c, "the revision stays when all is compacted away", c.current(), 8)
		want(c, "the next revision", c.put("a", "x"), 9)
		want(c, "compacting the current revision", c.compact(9).Header.Revision, 9)
		want(c, "a survivor", string(c.get(at(9)).Kvs[0].Value), "x")
	})
}

func TestExamplesLease(t *testing.T) {
	eachServer(t, func(c *client) {
		grant := func(id, ttl int64) *pb.LeaseGrantResponse {
			return must[*pb.LeaseGrantResponse](c, "LeaseGrant", &pb.LeaseGrantRequest{ID: id, TTL: ttl})
		}
		live := func(id int64) *pb.LeaseTimeToLiveResponse {
			return must[*pb.LeaseTimeToLiveResponse](c, "LeaseTimeToLive", &pb.LeaseTimeToLiveRequest{ID: id, Keys: true})
		}
		want(c, "granted", grant(7, 1000).TTL, 1000)
		c.refuse("LeaseGrant", &pb.LeaseGrantRequest{ID: 7, TTL: 5}, codes.FailedPrecondition, "etcdserver: lease already exists")
		c.refuse("LeaseGrant", &pb.LeaseGrantRequest{ID: 8, TTL: 9000000001}, codes.OutOfRange, "etcdserver: too large lease TTL")
		start := time.Now()
		want(c, "largest", grant(8, 9000000000).TTL, 9000000000)
		left := live(8).TTL
		passed := int64(time.Since(start) / time.Second)
		if left > 8999999999 || left < 8999999999-passed {
			t.Errorf("largest, remaining after %d s: %d", passed, left)
		}
		start = time.Now()
		short := grant(9, 1)
		want(c, "smallest", short.TTL, 2)
		revoke := call(c.conn, "LeaseRevoke", &pb.LeaseRevokeRequest{ID: 9})
		if ended := revoke.Code == codes.NotFound && time.Since(start) >= 2*time.Second; revoke.Code != codes.OK && !ended {
			t.Errorf("revoke the smallest:\n%s", revoke)
		}
		want(c, "revision unmoved", c.current(), 1)

		missing := live(12345)
		want(c, "missing", missing.TTL, -1)
		want(c, "missing, id", missing.ID, 12345)
		want(c, "missing, granted", missing.GrantedTTL, 0)
		c.refuse("LeaseRevoke", &pb.LeaseRevokeRequest{ID: 12345}, codes.NotFound, errNoLease)

		for _, key := range []string{"b", "a", "c"} {
			c.put(key, "v", 7)
		}
		c.put("c", "v") // Detached.
		c.restart()
		want(c, "keys", len(live(7).Keys), 2)
		want(c, "granted after restart", live(7).GrantedTTL, 1000)
		r := must[*pb.LeaseRevokeResponse](c, "LeaseRevoke", &pb.LeaseRevokeRequest{ID: 7})
		want(c, "one revision for all keys", r.Header.Revision, 6)
		wantKeys(t, c.get(&pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}}), "c")
		picked := grant(0, 1000)
		want(c, "a picked id is positive", picked.ID > 0, true)
		must[*pb.LeaseRevokeResponse](c, "LeaseRevoke", &pb.LeaseRevokeRequest{ID: picked.ID})
	})
}

// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"fmt"
	"strings"
	"testing"

	"cairn/tests/harness"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// onRange makes a fault of a change to the answers of Range.
func onRange(name string, change func(req *pb.RangeRequest, resp *pb.RangeResponse) bool) fault {
	return fault{name: name, message: func(req, resp proto.Message, _ int) bool {
		r, ok := resp.(*pb.RangeResponse)
		return ok && change(req.(*pb.RangeRequest), r)
	}}
}

// on makes a fault of a change to one kind of answer.
func on[T proto.Message](name string, change func(T) bool) fault {
	return fault{name: name, message: func(_, resp proto.Message, _ int) bool {
		r, ok := resp.(T)
		return ok && change(r)
	}}
}

// onInner makes a fault of a change to the answers inside a txn's answer.
func onInner(name string, change func(*pb.ResponseOp) bool) fault {
	return on(name, func(r *pb.TxnResponse) bool {
		changed := false
		for _, op := range r.Responses {
			changed = change(op) || changed
		}
		return changed
	})
}

// Faults in answers: the states stay equal, so all of them can be planted over one pair of servers.
func answerFaults() []fault {
	return []fault{
		on("put revision one too high", func(r *pb.PutResponse) bool { r.Header.Revision++; return true }),
		on("member id missing", func(r *pb.PutResponse) bool { r.Header.MemberId = 0; return true }),
		on("raft term missing", func(r *pb.DeleteRangeResponse) bool { r.Header.RaftTerm = 0; return true }),
		on("header missing", func(r *pb.CompactionResponse) bool { r.Header = nil; return true }),
		on("previous version missing", func(r *pb.PutResponse) bool {
			had := r.PrevKv != nil
			r.PrevKv = nil
			return had
		}),
		on("one more deleted", func(r *pb.DeleteRangeResponse) bool { r.Deleted++; return true }),
		on("txn outcome turned", func(r *pb.TxnResponse) bool { r.Succeeded = !r.Succeeded; return true }),
		onInner("inner put revision one too low", func(op *pb.ResponseOp) bool {
			if r := op.GetResponsePut(); r != nil {
				r.Header.Revision--
				return true
			}
			return false
		}),
		onInner("inner header filled in full", func(op *pb.ResponseOp) bool {
			if r := op.GetResponseRange(); r != nil {
				r.Header.ClusterId = 7
				return true
			}
			return false
		}),
		onInner("nested txn header with a revision", func(op *pb.ResponseOp) bool {
			if r := op.GetResponseTxn(); r != nil {
				r.Header.Revision = 7
				return true
			}
			return false
		}),
		onInner("nested txn header absent", func(op *pb.ResponseOp) bool {
			if r := op.GetResponseTxn(); r != nil {
				r.Header = nil
				return true
			}
			return false
		}),
		onRange("count cut to the limit", func(_ *pb.RangeRequest, r *pb.RangeResponse) bool {
			old := r.Count
			r.Count = int64(len(r.Kvs))
			return old != r.Count
		}),
		onRange("more turned", func(_ *pb.RangeRequest, r *pb.RangeResponse) bool { r.More = !r.More; return true }),
		onRange("keys_only with lease", func(q *pb.RangeRequest, r *pb.RangeResponse) bool {
			if !q.KeysOnly || len(r.Kvs) == 0 {
				return false
			}
			r.Kvs[0].Lease = 5
			return true
		}),
		onRange("two equal keys in the other order", func(_ *pb.RangeRequest, r *pb.RangeResponse) bool {
			if len(r.Kvs) < 13 {
				return false
			}
			r.Kvs[3], r.Kvs[4] = r.Kvs[4], r.Kvs[3]
			return true
		}),
		onRange("version one too high", func(_ *pb.RangeRequest, r *pb.RangeResponse) bool {
			if len(r.Kvs) == 0 {
				return false
			}
			r.Kvs[len(r.Kvs)-1].Version++
			return true
		}),
		onRange("create revision taken from mod revision", func(_ *pb.RangeRequest, r *pb.RangeResponse) bool {
			for _, kv := range r.Kvs {
				if kv.CreateRevision != kv.ModRevision {
					kv.CreateRevision = kv.ModRevision
					return true
				}
			}
			return false
		}),
		on("hash off by one bit", func(r *pb.HashKVResponse) bool { r.Hash ^= 1; return true }),
		on("hash's compact revision", func(r *pb.HashKVResponse) bool { r.CompactRevision--; return true }),
		on("granted time off by one", func(r *pb.LeaseGrantResponse) bool { r.TTL++; return true }),
		on("remaining time off by five", func(r *pb.LeaseTimeToLiveResponse) bool {
			if r.TTL <= 5 {
				return false
			}
			r.TTL -= 5
			return true
		}),
		on("kept alive for longer", func(r *pb.LeaseKeepAliveResponse) bool { r.TTL++; return true }),
		on("an unknown lease kept alive", func(r *pb.LeaseKeepAliveResponse) bool {
			if r.TTL != 0 {
				return false
			}
			r.TTL = 5
			return true
		}),
		on("a lease not listed", func(r *pb.LeaseLeasesResponse) bool {
			if len(r.Leases) == 0 {
				return false
			}
			r.Leases = r.Leases[1:]
			return true
		}),
		on("leases listed from the last", func(r *pb.LeaseLeasesResponse) bool {
			for i, j := 0, len(r.Leases)-1; i < j; i, j = i+1, j-1 {
				r.Leases[i], r.Leases[j] = r.Leases[j], r.Leases[i]
			}
			return len(r.Leases) > 4
		}),
		on("version reported", func(r *pb.StatusResponse) bool { r.Version = "3.7.0"; return true }),
		on("member name", func(r *pb.MemberListResponse) bool { r.Members[0].Name = "x"; return true }),
		{name: "a chunk with a header", message: func(_, resp proto.Message, index int) bool {
			r, ok := resp.(*pb.RangeStreamResponse)
			if !ok || index != 0 || r.RangeResponse.Header != nil {
				return false
			}
			r.RangeResponse.Header = &pb.ResponseHeader{Revision: 3}
			return true
		}},
		{name: "two chunks in one", messages: func(list []proto.Message) []proto.Message {
			proto.Merge(list[0], list[1])
			return append(list[:1], list[2:]...)
		}},
		{name: "error text", failure: func(s *status.Status) *status.Status {
			return status.New(s.Code(), strings.Replace(s.Message(), "compacted", "compacted away", 1))
		}},
		{name: "error code", failure: func(s *status.Status) *status.Status {
			if s.Code() != codes.InvalidArgument {
				return s
			}
			return status.New(codes.Unknown, s.Message())
		}},
	}
}

// Faults in what the server does: the states part, so each needs a pair of its own.
func stateFaults() []fault {
	onPut := func(name string, change func(*pb.PutRequest)) fault {
		return fault{name: name, request: func(req proto.Message) {
			if r, ok := req.(*pb.PutRequest); ok {
				change(r)
			}
		}}
	}
	return []fault{
		onPut("lease not stored", func(r *pb.PutRequest) {
			if r.Lease > 0 && r.Lease < 20 {
				r.Lease = 0
			}
		}),
		onPut("a value's last byte", func(r *pb.PutRequest) {
			if n := len(r.Value); n > 250 {
				r.Value[n-1] ^= 1
			}
		}),
		{name: "a delete of one key instead of a range", request: func(req proto.Message) {
			if r, ok := req.(*pb.DeleteRangeRequest); ok {
				r.RangeEnd = nil
			}
		}},
		{name: "compaction not done", request: func(req proto.Message) {
			if r, ok := req.(*pb.CompactionRequest); ok && r.Revision > 3 {
				r.Revision--
			}
		}},
	}
}

// plantedRun drives a pair whose second server is behind a proxy and returns what was found and planted.
func plantedRun(t *testing.T, p *pair, g *generator, f fault) (found, planted int, report string) {
	x, err := newProxy(p.subject.conn)
	if err != nil {
		t.Fatal(err)
	}
	defer x.server.Stop()
	x.fault = &f
	conn, err := harness.Dial(x.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	behind := *p
	behind.subject.conn = conn
	w := &world{pair: &behind, gen: g, requests: 1500, differences: 1, noRestarts: true, name: f.name,
		report: func(s string) { report += s }}
	if err := w.run(); err != nil {
		t.Fatal(err)
	}
	p.skew = behind.skew
	return w.found, x.planted, report
}

// TestPlantedDifferences proves that the comparison can fail: each of these faults must be found.
func TestPlantedDifferences(t *testing.T) {
	check := func(f fault, found, planted int, report string) {
		switch {
		case planted == 0:
			t.Errorf("%s: the sequence never met it", f.name)
		case found == 0:
			t.Errorf("%s: planted %d times and not found", f.name, planted)
		case testing.Verbose():
			t.Logf("%s: found after %d\n%.300s", f.name, planted, report)
		}
	}
	p := newPair(t, harness.Etcd)
	g := newGenerator(4711, 0)
	for i, f := range answerFaults() {
		next := newGenerator(4711, uint64(i))
		next.cur, next.comp, next.leases, next.known, next.risky = g.cur, g.comp, g.leases, g.known, g.risky
		g = next
		found, planted, report := plantedRun(t, p, g, f)
		check(f, found, planted, report)
	}
	p.close()
	for i, f := range stateFaults() {
		p := newPair(t, harness.Etcd)
		found, planted, report := plantedRun(t, p, newGenerator(4712, uint64(i)), f)
		check(f, found, planted, report)
		p.close()
	}
}

func requestOf(kind string) proto.Message {
	switch kind {
	case "Range", "RangeStream":
		return &pb.RangeRequest{}
	case "Put":
		return &pb.PutRequest{}
	case "DeleteRange":
		return &pb.DeleteRangeRequest{}
	case "Txn":
		return &pb.TxnRequest{}
	case "Compact":
		return &pb.CompactionRequest{}
	case "LeaseGrant":
		return &pb.LeaseGrantRequest{}
	case "LeaseRevoke":
		return &pb.LeaseRevokeRequest{}
	case "LeaseTimeToLive":
		return &pb.LeaseTimeToLiveRequest{}
	case "LeaseKeepAlive":
		return &pb.LeaseKeepAliveRequest{}
	case "LeaseLeases":
		return &pb.LeaseLeasesRequest{}
	case "HashKV":
		return &pb.HashKVRequest{}
	case "Hash":
		return &pb.HashRequest{}
	case "Status":
		return &pb.StatusRequest{}
	case "Defragment":
		return &pb.DefragmentRequest{}
	case "MemberList":
		return &pb.MemberListRequest{}
	}
	panic(fmt.Sprintf("no request for %s", kind))
}

// SPDX-License-Identifier: Apache-2.0

// Package conformance sends the same requests to etcd 3.7.1 and to Cairn and compares all they answer: every field
// of every message, error codes and error texts, before and after restarts and kills.
//
// What is not compared, because it may differ between two etcd servers too:
//
//   - cluster id, member id, raft term (but zero against non-zero is a difference);
//   - remaining times to live, by as much as the two servers may have been apart when they started, granted, renewed and
//     answered;
//   - lease ids which the server picked, member names and addresses, database sizes and raft indexes;
//   - the value of Maintenance.Hash, which covers etcd's own file buckets.
package conformance

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sort"
	"strings"
	"time"

	"cairn/tests/harness"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
)

const callLimit = 30 * time.Second

// Answer is all that a call gave back.
type Answer struct {
	Messages []proto.Message // One for a unary call, none when it failed.
	Code     codes.Code
	Text     string
}

type method struct {
	path   string
	make   func() proto.Message
	stream bool
}

var methods = map[string]method{
	"Range":           {path: "/etcdserverpb.KV/Range", make: func() proto.Message { return &pb.RangeResponse{} }},
	"RangeStream":     {path: "/etcdserverpb.KV/RangeStream", make: func() proto.Message { return &pb.RangeStreamResponse{} }, stream: true},
	"Put":             {path: "/etcdserverpb.KV/Put", make: func() proto.Message { return &pb.PutResponse{} }},
	"DeleteRange":     {path: "/etcdserverpb.KV/DeleteRange", make: func() proto.Message { return &pb.DeleteRangeResponse{} }},
	"Txn":             {path: "/etcdserverpb.KV/Txn", make: func() proto.Message { return &pb.TxnResponse{} }},
	"Compact":         {path: "/etcdserverpb.KV/Compact", make: func() proto.Message { return &pb.CompactionResponse{} }},
	"LeaseGrant":      {path: "/etcdserverpb.Lease/LeaseGrant", make: func() proto.Message { return &pb.LeaseGrantResponse{} }},
	"LeaseRevoke":     {path: "/etcdserverpb.Lease/LeaseRevoke", make: func() proto.Message { return &pb.LeaseRevokeResponse{} }},
	"LeaseTimeToLive": {path: "/etcdserverpb.Lease/LeaseTimeToLive", make: func() proto.Message { return &pb.LeaseTimeToLiveResponse{} }},
	"LeaseLeases":     {path: "/etcdserverpb.Lease/LeaseLeases", make: func() proto.Message { return &pb.LeaseLeasesResponse{} }},
	"LeaseKeepAlive":  {path: "/etcdserverpb.Lease/LeaseKeepAlive", make: func() proto.Message { return &pb.LeaseKeepAliveResponse{} }, stream: true},
	"HashKV":          {path: "/etcdserverpb.Maintenance/HashKV", make: func() proto.Message { return &pb.HashKVResponse{} }},
	"Hash":            {path: "/etcdserverpb.Maintenance/Hash", make: func() proto.Message { return &pb.HashResponse{} }},
	"Status":          {path: "/etcdserverpb.Maintenance/Status", make: func() proto.Message { return &pb.StatusResponse{} }},
	"Defragment":      {path: "/etcdserverpb.Maintenance/Defragment", make: func() proto.Message { return &pb.DefragmentResponse{} }},
	"MemberList":      {path: "/etcdserverpb.Cluster/MemberList", make: func() proto.Message { return &pb.MemberListResponse{} }},
}

// call sends one request and takes all of the answer.
func call(conn grpc.ClientConnInterface, kind string, req proto.Message) Answer {
	m, ok := methods[kind]
	if !ok {
		panic("no method " + kind)
	}
	ctx, cancel := context.WithTimeout(context.Background(), callLimit)
	defer cancel()
	if m.stream {
		return callStream(ctx, conn, m, req)
	}
	resp := m.make()
	if err := conn.Invoke(ctx, m.path, req, resp, grpc.WaitForReady(true)); err != nil {
		return failed(nil, err)
	}
	return Answer{Messages: []proto.Message{resp}}
}

func callStream(ctx context.Context, conn grpc.ClientConnInterface, m method, req proto.Message) Answer {
	desc := &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}
	stream, err := conn.NewStream(ctx, desc, m.path, grpc.WaitForReady(true))
	if err == nil {
		if err = stream.SendMsg(req); err == nil {
			err = stream.CloseSend()
		}
	}
	var got []proto.Message
	for err == nil {
		resp := m.make()
		if err = stream.RecvMsg(resp); err == nil {
			got = append(got, resp)
		}
	}
	if errors.Is(err, io.EOF) {
		return Answer{Messages: got}
	}
	return failed(got, err)
}

func failed(got []proto.Message, err error) Answer {
	s := status.Convert(err)
	return Answer{Messages: got, Code: s.Code(), Text: s.Message()}
}

func (a Answer) String() string {
	var b strings.Builder
	for i, m := range a.Messages {
		fmt.Fprintf(&b, "  message %d: %s\n", i, brief(m))
	}
	if a.Code != codes.OK {
		fmt.Fprintf(&b, "  error: %v %q\n", a.Code, a.Text)
	} else if len(a.Messages) == 0 {
		b.WriteString("  no message, no error\n")
	}
	return b.String()
}

// brief prints a message on one line, cut when it is very long.
func brief(m proto.Message) string {
	s := prototext.MarshalOptions{}.Format(m)
	if len(s) > 6000 {
		s = s[:6000] + fmt.Sprintf(" ... (%d characters)", len(s))
	}
	return s
}

// apart points at the first lines in which two answers of the same shape differ, since answers are long.
func apart(a, b Answer) string {
	var out strings.Builder
	shown := 0
	for i := 0; i < len(a.Messages) && i < len(b.Messages); i++ {
		options := prototext.MarshalOptions{Multiline: true, Indent: "."}
		x := strings.Split(options.Format(a.Messages[i]), "\n")
		y := strings.Split(options.Format(b.Messages[i]), "\n")
		for j := 0; (j < len(x) || j < len(y)) && shown < 6; j++ {
			var left, right string
			if j < len(x) {
				left = unspaced(x[j])
			}
			if j < len(y) {
				right = unspaced(y[j])
			}
			if left != right {
				fmt.Fprintf(&out, "  message %d line %d: etcd %.300s | cairn %.300s\n", i, j, left, right)
				shown++
			}
		}
	}
	return out.String()
}

// unspaced takes out the doubled spaces that prototext puts in at random so that nobody relies on its output.
func unspaced(s string) string { return strings.ReplaceAll(s, ":  ", ": ") }

// normal makes what may differ between two servers equal, and leaves a mark where it must not be absent.
func normal(kind string, a Answer) Answer {
	out := Answer{Code: a.Code, Text: a.Text}
	for _, m := range a.Messages {
		m = proto.Clone(m)
		normalHeader(m)
		normalFields(m)
		out.Messages = append(out.Messages, m)
	}
	return out
}

func normalHeader(m proto.Message) {
	type headed interface{ GetHeader() *pb.ResponseHeader }
	var h *pb.ResponseHeader
	if s, ok := m.(*pb.RangeStreamResponse); ok {
		h = s.GetRangeResponse().GetHeader()
	} else if x, ok := m.(headed); ok {
		h = x.GetHeader()
	}
	if h == nil {
		return
	}
	for _, id := range []*uint64{&h.ClusterId, &h.MemberId, &h.RaftTerm} {
		if *id != 0 {
			*id = 1
		}
	}
}

func normalFields(m proto.Message) {
	positive := func(v *int64) {
		if *v > 0 {
			*v = 1
		}
	}
	one := func(v *uint64) {
		if *v > 0 {
			*v = 1
		}
	}
	switch m := m.(type) {
	case *pb.StatusResponse:
		positive(&m.DbSize)
		positive(&m.DbSizeInUse)
		one(&m.Leader)
		one(&m.RaftIndex)
		one(&m.RaftTerm)
		one(&m.RaftAppliedIndex)
		// The first seconds after a start pass before it is settled; etcd then shows how it migrates.
		if m.StorageVersion == "" || m.StorageVersion == "3.5.0" || m.StorageVersion == "3.6.0" {
			m.StorageVersion = "3.7.0"
		}
	case *pb.MemberListResponse:
		for _, member := range m.Members {
			one(&member.ID)
			for _, urls := range [][]string{member.PeerURLs, member.ClientURLs} {
				for i := range urls {
					urls[i] = "url"
				}
			}
		}
	case *pb.HashResponse:
		m.Hash = 1
	case *pb.LeaseTimeToLiveResponse:
		sort.Slice(m.Keys, func(i, j int) bool { return string(m.Keys[i]) < string(m.Keys[j]) })
	case *pb.LeaseLeasesResponse:
		sort.Slice(m.Leases, func(i, j int) bool { return m.Leases[i].ID < m.Leases[j].ID })
	}
}

// same compares two normalised answers. slack is the difference allowed between remaining times to live.
func same(a, b Answer, slack int64) bool {
	if a.Code != b.Code || a.Text != b.Text || len(a.Messages) != len(b.Messages) {
		return false
	}
	for i := range a.Messages {
		x, y := a.Messages[i], b.Messages[i]
		if p, ok := x.(*pb.LeaseTimeToLiveResponse); ok {
			q, ok := y.(*pb.LeaseTimeToLiveResponse)
			if ok && p.TTL > 0 && q.TTL > 0 && p.TTL-q.TTL <= slack && q.TTL-p.TTL <= slack {
				q.TTL = p.TTL
			}
		}
		if !proto.Equal(x, y) {
			return false
		}
	}
	return true
}

// side is one of the two servers.
type side struct {
	server  *harness.Server
	conn    *grpc.ClientConn
	watches *grpc.ClientConn // For watch streams, when they go another way than calls.
}

func (s *side) watchConn() *grpc.ClientConn {
	if s.watches != nil {
		return s.watches
	}
	return s.conn
}

func (s *side) connect() error {
	conn, err := s.server.Dial()
	if err != nil {
		return err
	}
	if s.conn != nil {
		s.conn.Close()
	}
	s.conn = conn
	return nil
}

// pair is the oracle and the server under test.
type pair struct {
	oracle, subject side
	slack           int64 // By how many seconds the remaining times in the last answers may differ.
	expiry          map[int64]time.Time
	ttl             map[int64]int64
	skew            time.Duration // Between the times at which any one lease began on the two sides; an upper bound.
}

// both does the same to both sides at the same time.
func (p *pair) both(f func(s *side) error) error {
	c := make(chan error, 1)
	go func() { c <- f(&p.oracle) }()
	err := f(&p.subject)
	return errors.Join(<-c, err)
}

func (p *pair) call(kind string, req proto.Message) (oracle, subject Answer) {
	c := make(chan Answer, 1)
	start := time.Now()
	go func() { c <- call(p.oracle.conn, kind, req) }()
	subject = call(p.subject.conn, kind, req)
	oracle = <-c
	took := time.Since(start)
	if kind == "LeaseGrant" || kind == "LeaseKeepAlive" {
		p.skew = max(p.skew, took)
	}
	p.slack = int64((p.skew + took + time.Second - 1) / time.Second)
	return oracle, subject
}

// restart stops both servers, by SIGTERM or by kill -9, and starts them again on their data.
func (p *pair) restart(kill bool) error {
	var begun, ready [2]time.Time
	err := p.both(func(s *side) error {
		var err error
		i := 0
		if s == &p.subject {
			i = 1
		}
		if kill {
			err = s.server.Kill9()
		} else {
			_, err = s.server.Terminate()
		}
		if err != nil {
			return err
		}
		begun[i] = time.Now()
		if err := s.server.StartReady(); err != nil {
			return err
		}
		ready[i] = time.Now()
		return s.connect()
	})
	p.skew = max(ready[0].Sub(begun[1]), ready[1].Sub(begun[0])) // All leases begin again in between.
	for id, ttl := range p.ttl {
		p.expiry[id] = time.Now().Add(time.Duration(ttl) * time.Second)
	}
	return err
}

// noteLease keeps track of when leases expire, for the order of the lease list.
func (p *pair) noteLease(s Step, a Answer) {
	if a.Code != codes.OK {
		return
	}
	switch req := s.Req.(type) {
	case *pb.LeaseGrantRequest:
		if s.Kind == "LeaseGrant" {
			resp := a.Messages[0].(*pb.LeaseGrantResponse)
			p.ttl[resp.ID] = resp.TTL
			p.expiry[resp.ID] = time.Now().Add(time.Duration(resp.TTL) * time.Second)
		}
	case *pb.LeaseKeepAliveRequest:
		if p.ttl[req.ID] != 0 {
			p.expiry[req.ID] = time.Now().Add(time.Duration(p.ttl[req.ID]) * time.Second)
		}
	case *pb.LeaseRevokeRequest:
		delete(p.ttl, req.ID)
		delete(p.expiry, req.ID)
	}
}

// leaseOrder says whether a lease list ascends by remaining time, as far as that can be told from outside.
func (p *pair) leaseOrder(a Answer) error {
	if a.Code != codes.OK {
		return nil
	}
	list := a.Messages[0].(*pb.LeaseLeasesResponse).Leases
	for i := 1; i < len(list); i++ {
		before, after := p.expiry[list[i-1].ID], p.expiry[list[i].ID]
		if before.After(after.Add(3*time.Second + p.skew)) {
			return fmt.Errorf("lease %d expires %v after lease %d but is listed before it", list[i-1].ID,
				before.Sub(after), list[i].ID)
		}
	}
	return nil
}

func (p *pair) close() {
	for _, s := range []*side{&p.oracle, &p.subject} {
		if s.conn != nil {
			s.conn.Close()
		}
		s.server.Close()
	}
}

// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"fmt"
	"strings"
	"testing"

	"cairn/tests/harness"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
)

// client calls one server and fails the test for what the test didn't expect.
type client struct {
	t      *testing.T
	server *harness.Server
	conn   *grpc.ClientConn
}

// eachServer runs a table against etcd, so that the literal values are known to be right, and against Cairn.
func eachServer(t *testing.T, f func(c *client)) {
	for _, kind := range []harness.Kind{harness.Etcd, harness.Cairn} {
		t.Run(string(kind), func(t *testing.T) {
			c := &client{t: t, server: harness.StartForTest(t, kind)}
			c.dial()
			f(c)
			if !c.server.Alive() {
				t.Fatal("the server has ended")
			}
		})
	}
}

func (c *client) dial() {
	c.t.Helper()
	conn, err := c.server.Dial()
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { conn.Close() })
	c.conn = conn
}

func (c *client) restart() {
	c.t.Helper()
	if _, err := c.server.Terminate(); err != nil {
		c.t.Fatal(err)
	}
	if err := c.server.StartReady(); err != nil {
		c.t.Fatal(err)
	}
	c.conn.Close()
	c.dial()
}

// must sends a request that has to succeed and returns its only message.
func must[T proto.Message](c *client, kind string, req proto.Message) T {
	c.t.Helper()
	a := call(c.conn, kind, req)
	if a.Code != codes.OK || len(a.Messages) != 1 {
		c.t.Fatalf("%s { %s }:\n%s", kind, brief(req), a)
	}
	return a.Messages[0].(T)
}

// refuse sends a request that has to fail with this code and text.
func (c *client) refuse(kind string, req proto.Message, code codes.Code, text string) {
	c.t.Helper()
	a := call(c.conn, kind, req)
	if a.Code != code || a.Text != text {
		c.t.Errorf("%s { %.300s }: want %v %q, got\n%s", kind, brief(req), code, text, a)
	}
}

func (c *client) put(key, value string, lease ...int64) int64 {
	c.t.Helper()
	req := &pb.PutRequest{Key: []byte(key), Value: []byte(value)}
	if len(lease) > 0 {
		req.Lease = lease[0]
	}
	return must[*pb.PutResponse](c, "Put", req).Header.Revision
}

func (c *client) del(key, end string) *pb.DeleteRangeResponse {
	c.t.Helper()
	return must[*pb.DeleteRangeResponse](c, "DeleteRange", delRequest(key, end))
}

func delRequest(key, end string) *pb.DeleteRangeRequest {
	r := &pb.DeleteRangeRequest{Key: []byte(key)}
	if end != "" {
		r.RangeEnd = []byte(end)
	}
	return r
}

func (c *client) compact(revision int64) *pb.CompactionResponse {
	c.t.Helper()
	return must[*pb.CompactionResponse](c, "Compact", &pb.CompactionRequest{Revision: revision, Physical: true})
}

func (c *client) txn(r *pb.TxnRequest) *pb.TxnResponse {
	c.t.Helper()
	return must[*pb.TxnResponse](c, "Txn", r)
}

func (c *client) get(r *pb.RangeRequest) *pb.RangeResponse {
	c.t.Helper()
	return must[*pb.RangeResponse](c, "Range", r)
}

func (c *client) grant(id, ttl int64) {
	c.t.Helper()
	must[*pb.LeaseGrantResponse](c, "LeaseGrant", &pb.LeaseGrantRequest{ID: id, TTL: ttl})
}

// current returns the current revision.
func (c *client) current() int64 {
	c.t.Helper()
	return c.get(&pb.RangeRequest{Key: []byte("no such key")}).Header.Revision
}

// wantHash checks HashKV at a revision: the hash, the compact revision and the revision it was taken at.
func (c *client) wantHash(revision int64, hash uint32, compact, at int64) {
	c.t.Helper()
	r := must[*pb.HashKVResponse](c, "HashKV", &pb.HashKVRequest{Revision: revision})
	if r.Hash != hash || r.CompactRevision != compact || r.HashRevision != at {
		c.t.Errorf("HashKV(%d) at revision %d: want hash %d compact %d at %d, got %d %d %d", revision,
			r.Header.Revision, hash, compact, at, r.Hash, r.CompactRevision, r.HashRevision)
	}
}

// wantKeys checks which keys come in which order.
func wantKeys(t *testing.T, r *pb.RangeResponse, want string) {
	t.Helper()
	var got []string
	for _, kv := range r.Kvs {
		got = append(got, string(kv.Key))
	}
	if s := strings.Join(got, " "); s != want {
		t.Errorf("keys: want %q, got %q", want, s)
	}
}

func want[T comparable](c *client, what string, got, want T) {
	c.t.Helper()
	if got != want {
		c.t.Errorf("%s: want %v, got %v", what, want, got)
	}
}

// stream sends a RangeStream and returns its messages.
func (c *client) stream(r *pb.RangeRequest) []*pb.RangeResponse {
	c.t.Helper()
	a := call(c.conn, "RangeStream", r)
	if a.Code != codes.OK {
		c.t.Fatalf("RangeStream { %s }:\n%s", brief(r), a)
	}
	var list []*pb.RangeResponse
	for _, m := range a.Messages {
		list = append(list, m.(*pb.RangeStreamResponse).RangeResponse)
	}
	return list
}

// chunks describes a stream: keys of each message, then what the last one says.
func chunks(list []*pb.RangeResponse) string {
	var parts []string
	for _, r := range list {
		parts = append(parts, fmt.Sprint(len(r.Kvs)))
	}
	last := list[len(list)-1]
	return fmt.Sprintf("%s more %v count %d", strings.Join(parts, " "), last.More, last.Count)
}

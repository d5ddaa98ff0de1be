// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"context"
	"fmt"
	"testing"

	"cairn/tests/harness"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// Two inputs end an etcd server. Cairn must answer them, and go on.

// cairnOnly returns a client of a fresh Cairn server.
func cairnOnly(t *testing.T) *client {
	c := &client{t: t, server: harness.StartForTest(t, harness.Cairn)}
	c.dial()
	return c
}

// The checks before a txn look at the state before it, so a put that ignores its value passes them although the
// delete before it in the same txn removes the key. Only an open-ended delete gets past the check for overlaps.
func TestCrashingTxn(t *testing.T) {
	c := cairnOnly(t)
	open := deleteOp(delRequest("k", "\x00"))
	ignoring := func(key string, lease bool) *pb.RequestOp {
		return putOp(&pb.PutRequest{Key: []byte(key), IgnoreValue: !lease, IgnoreLease: lease})
	}
	nested := func(op *pb.RequestOp) *pb.RequestOp { return txnOp(&pb.TxnRequest{Success: []*pb.RequestOp{op}}) }
	c.put("a", "kept")
	c.put("k", "v")
	c.put("m", "v")
	before := c.current()
	for _, ops := range [][]*pb.RequestOp{
		{open, ignoring("k", false)},
		{open, ignoring("k", true)},
		{open, ignoring("m", false)},
		{nested(open), ignoring("k", false)},
		{open, nested(ignoring("k", true))},
		{putOp(&pb.PutRequest{Key: []byte("new")}), open, ignoring("k", false)},
	} {
		c.refuse("Txn", &pb.TxnRequest{Success: ops}, codes.InvalidArgument, errNotFound)
		want(c, "revision", c.current(), before)
	}
	wantKeys(t, c.get(&pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}}), "a k m")
	// The same shapes without the clash are carried out.
	c.txn(&pb.TxnRequest{Success: []*pb.RequestOp{open, ignoring("a", false)}})
	wantKeys(t, c.get(&pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}}), "a")
	c.put("k", "v")
	c.txn(&pb.TxnRequest{Success: []*pb.RequestOp{ignoring("k", false), open}})
	wantKeys(t, c.get(&pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}}), "a")
	c.restart()
	wantKeys(t, c.get(&pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}}), "a")
}

// A key is deleted and made again in one revision, and the store compacted at exactly that revision: the live
// version must stay.
func TestCompactionAtRecreation(t *testing.T) {
	c := cairnOnly(t)
	c.put("k", "old")
	c.put("other", "v")
	r := c.txn(&pb.TxnRequest{Success: []*pb.RequestOp{
		deleteOp(delRequest("k", "\x00")), putOp(&pb.PutRequest{Key: []byte("k"), Value: []byte("new")}),
	}})
	at := r.Header.Revision
	c.compact(at)
	check := func(version int64, value string) {
		t.Helper()
		got := c.get(&pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}})
		wantKeys(t, got, "k")
		if len(got.Kvs) == 1 {
			want(c, "value", string(got.Kvs[0].Value), value)
			want(c, "create revision", got.Kvs[0].CreateRevision, at)
			want(c, "version", got.Kvs[0].Version, version)
		}
	}
	check(1, "new")
	c.restart()
	check(1, "new")
	c.put("k", "newer")
	check(2, "newer")
	want(c, "at the compact revision", string(c.get(&pb.RangeRequest{Key: []byte("k"), Revision: at}).Kvs[0].Value), "new")
	c.compact(at + 1)
	check(2, "newer")
}

// wireBytes is a request that is already encoded.
type wireBytes []byte

type halfRawCodec struct{}

func (halfRawCodec) Marshal(v any) ([]byte, error) {
	if b, ok := v.(wireBytes); ok {
		return b, nil
	}
	return proto.Marshal(v.(proto.Message))
}

func (halfRawCodec) Unmarshal(data []byte, v any) error {
	return proto.Unmarshal(data, v.(proto.Message))
}

func (halfRawCodec) Name() string { return "proto" }

func callWire(conn *grpc.ClientConn, kind string, b wireBytes) Answer {
	m := methods[kind]
	ctx, cancel := context.WithTimeout(context.Background(), callLimit)
	defer cancel()
	resp := m.make()
	if err := conn.Invoke(ctx, m.path, b, resp, grpc.ForceCodec(halfRawCodec{}), grpc.WaitForReady(true)); err != nil {
		return failed(nil, err)
	}
	return Answer{Messages: []proto.Message{resp}}
}

// wire builds encoded messages field by field.
type wire []byte

func (w wire) bytes(field int, v string) wire {
	return protowire.AppendString(protowire.AppendTag(w, protowire.Number(field), protowire.BytesType), v)
}

func (w wire) varint(field int, v uint64) wire {
	return protowire.AppendVarint(protowire.AppendTag(w, protowire.Number(field), protowire.VarintType), v)
}

// long writes a varint in ten bytes.
func (w wire) long(field int, v uint64) wire {
	w = protowire.AppendTag(w, protowire.Number(field), protowire.VarintType)
	for i := 0; i < 9; i++ {
		w = append(w, byte(v)|0x80)
		v >>= 7
	}
	return append(w, byte(v))
}

func (w wire) fixed64(field int, v uint64) wire {
	return protowire.AppendFixed64(protowire.AppendTag(w, protowire.Number(field), protowire.Fixed64Type), v)
}

func (w wire) fixed32(field int, v uint32) wire {
	return protowire.AppendFixed32(protowire.AppendTag(w, protowire.Number(field), protowire.Fixed32Type), v)
}

// TestWireForms sends encodings that no usual client makes but that every protobuf decoder must read alike: fields
// out of order and twice, varints longer than needed, enums wider than 32 bits, oneofs set more than once, fields
// from the future.
func TestWireForms(t *testing.T) {
	const success, failure = 2, 3
	put := wire{}.bytes(1, "k").bytes(2, "v")
	forms := []struct {
		kind string
		w    wire
	}{
		{"Put", wire{}.bytes(2, "v").bytes(1, "k")},
		{"Put", wire{}.bytes(1, "first").bytes(1, "k").bytes(2, "a").bytes(2, "")},
		{"Put", wire{}.bytes(1, "k").long(4, 1).long(3, 0)},
		{"Put", wire{}.bytes(1, "k").varint(4, 2)},
		{"Put", wire{}.bytes(1, "k").varint(4, 1<<40)},
		{"Put", wire{}.bytes(1, "k").varint(4, 1).varint(4, 0)},
		{"Put", wire{}.varint(99, 7).bytes(1, "k").bytes(100, "x").fixed32(101, 3).fixed64(102, 4)},
		{"Put", wire{}.bytes(1, "")},
		{"Put", wire{}},
		{"Range", wire{}.bytes(1, "\x00").bytes(2, "\x00").varint(5, 1<<32|2)},
		{"Range", wire{}.bytes(1, "\x00").bytes(2, "\x00").varint(5, 1<<32|3)},
		{"Range", wire{}.bytes(1, "k").varint(6, 1<<63)},
		{"Range", wire{}.bytes(1, "k").long(3, ^uint64(0)).long(4, ^uint64(0))},
		{"DeleteRange", wire{}.bytes(1, "none").bytes(2, "")},
		// A oneof set to two members: the last counts. Set to one member twice, the two are merged; with another in between
		// they are not.
		{"Txn", wire{}.bytes(success, string(wire{}.bytes(2, string(wire{}.bytes(1, "k"))).bytes(2, string(wire{}.bytes(2, "m")))))},
		{"Txn", wire{}.bytes(success, string(wire{}.bytes(2, string(put)).bytes(1, string(put)).bytes(2, string(wire{}.bytes(1, "l")))))},
		{"Txn", wire{}.bytes(success, string(wire{}.bytes(1, string(wire{}.bytes(1, "k"))).bytes(2, string(put))))},
		{"Txn", wire{}.bytes(success, string(wire{}.bytes(2, string(put)).bytes(1, string(wire{}.bytes(1, "k")))))},
		{"Txn", wire{}.bytes(1, string(wire{}.bytes(3, "k").varint(4, 5).bytes(7, "v").varint(2, 3)))},
		{"Txn", wire{}.bytes(1, string(wire{}.bytes(3, "k").bytes(7, "v").varint(4, 5).varint(2, 3)))},
		{"Txn", wire{}.bytes(success, "").bytes(failure, "")},
		{"Compact", wire{}.varint(1, 1).varint(1, 2).varint(2, 1)},
		{"LeaseGrant", wire{}.long(2, 77).long(1, 1000)},
		{"LeaseGrant", wire{}.varint(2, 1<<63).varint(1, 1000)},
		{"LeaseTimeToLive", wire{}.long(1, 77).varint(2, 3)},
		{"HashKV", wire{}.varint(1, 1<<63)},
	}
	for _, kind := range []harness.Kind{harness.Etcd, harness.Cairn} {
		t.Run(string(kind), func(t *testing.T) {
			p := newPair(t, kind)
			for i, f := range forms {
				oracle := callWire(p.oracle.conn, f.kind, wireBytes(f.w))
				subject := callWire(p.subject.conn, f.kind, wireBytes(f.w))
				if !same(normal(f.kind, oracle), normal(f.kind, subject), 1) {
					t.Errorf("form %d, %s %x\n etcd:\n%s cairn:\n%s", i, f.kind, []byte(f.w), oracle, subject)
				}
				if kind == harness.Etcd && testing.Verbose() {
					t.Log(fmt.Sprintf("form %d: %s", i, oracle))
				}
			}
			oracle, subject := p.call("HashKV", &pb.HashKVRequest{})
			if !same(normal("HashKV", oracle), normal("HashKV", subject), 0) {
				t.Errorf("the states differ:\n%s%s", oracle, subject)
			}
			p.close()
		})
	}
}

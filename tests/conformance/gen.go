// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"fmt"
	"math"
	"math/rand/v2"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// Step is one request of the random sequence.
type Step struct {
	Kind string // A method of the table in pair.go, or one of the composite kinds below.
	Req  proto.Message
}

// Composite steps: several calls that must come together.
const (
	// A lease whose id the server picks: granted, asked for and revoked with each server's own id.
	kindPickedLease = "PickedLease"
	// A lease with a time to live so short that it would expire: granted, asked for and revoked at once.
	kindShortLease = "ShortLease"
)

// generator makes requests from a seed and from what the oracle answered so far, so one seed gives one sequence.
//
// It stays away from two inputs that crash etcd itself, which have a test of their own: a txn that deletes with an
// open end and then puts with ignore_value or ignore_lease, and a compaction at exactly a revision in which a key
// was deleted and made again.
type generator struct {
	rng     *rand.Rand
	keys    []string
	cur     int64
	comp    int64
	leases  []int64
	short   int64                       // How many short leases there were, so that each has an id of its own.
	known   map[string]*mvccpb.KeyValue // Versions seen in answers; may be old.
	risky   map[int64]bool              // Revisions at which a key may have been deleted and made again.
	pending []Step
}

func newGenerator(seed, world uint64) *generator {
	g := &generator{
		rng:   rand.New(rand.NewPCG(seed, world)),
		cur:   1,
		comp:  -1,
		known: map[string]*mvccpb.KeyValue{},
		risky: map[int64]bool{},
	}
	g.keys = []string{
		"a", "b", "c", "d", "e", "f", "k", "k\x00", "k\x00\x00", "k\x01", "kk", "\x00", "\x00\x00", "\xff", "\xff\xff",
		"/registry/pods/default/web-0", "/registry/pods/default/web-1", "/registry/pods/kube-system/dns",
		"/registry/services/default/web", "/registry0",
	}
	for i := 0; i < 30; i++ {
		g.keys = append(g.keys, fmt.Sprintf("s%02d", i))
	}
	return g
}

// chance is true in about n of 1000 calls.
func (g *generator) chance(n int) bool { return g.rng.IntN(1000) < n }

func (g *generator) pick(v ...int64) int64 { return v[g.rng.IntN(len(v))] }

// Next returns the next request.
func (g *generator) Next() Step {
	if len(g.pending) > 0 {
		s := g.pending[0]
		g.pending = g.pending[1:]
		return s
	}
	if g.chance(3) {
		g.fill()
	}
	s := g.choose()
	if g.chance(8) {
		// A field that this version doesn't know must be passed over.
		raw := protowire.AppendTag(nil, 9000, protowire.VarintType)
		s.Req.ProtoReflect().SetUnknown(protowire.AppendVarint(raw, g.rng.Uint64()))
	}
	return s
}

func (g *generator) choose() Step {
	type entry struct {
		weight int
		make   func() Step
	}
	table := []entry{
		{230, func() Step { return Step{"Range", g.rangeRequest()} }},
		{80, func() Step { return Step{"RangeStream", g.streamRequest()} }},
		{270, func() Step { return Step{"Put", g.putRequest()} }},
		{70, func() Step { return Step{"DeleteRange", g.deleteRequest()} }},
		{210, func() Step { return Step{"Txn", g.txnRequest()} }},
		{16, func() Step { return Step{"Compact", g.compactRequest()} }},
		{30, func() Step { return Step{"LeaseGrant", g.grantRequest()} }},
		{14, func() Step { return Step{"LeaseRevoke", &pb.LeaseRevokeRequest{ID: g.lease(300)}} }},
		{22, func() Step {
			return Step{"LeaseTimeToLive", &pb.LeaseTimeToLiveRequest{ID: g.lease(150), Keys: g.chance(600)}}
		}},
		{14, func() Step { return Step{"LeaseKeepAlive", &pb.LeaseKeepAliveRequest{ID: g.lease(200)}} }},
		{8, func() Step { return Step{"LeaseLeases", &pb.LeaseLeasesRequest{}} }},
		{4, func() Step { return Step{kindPickedLease, &pb.LeaseGrantRequest{TTL: 600}} }},
		{3, func() Step {
			g.short++
			return Step{kindShortLease, &pb.LeaseGrantRequest{ID: 1<<50 + g.short, TTL: g.pick(0, 1, 2, 3, -1, math.MinInt64)}}
		}},
		{26, func() Step { return Step{"HashKV", &pb.HashKVRequest{Revision: g.revision(300)}} }},
		{5, func() Step { return Step{"Status", &pb.StatusRequest{}} }},
		{5, func() Step { return Step{"MemberList", &pb.MemberListRequest{Linearizable: g.chance(500)}} }},
		{2, func() Step { return Step{"Hash", &pb.HashRequest{}} }},
		{1, func() Step { return Step{"Defragment", &pb.DefragmentRequest{}} }},
	}
	total := 0
	for _, e := range table {
		total += e.weight
	}
	n := g.rng.IntN(total)
	for _, e := range table {
		if n < e.weight {
			return e.make()
		}
		n -= e.weight
	}
	panic("unreachable")
}

// fill queues puts that give many keys few different versions and values, so that sorts meet more than twelve
// equal elements, where their order depends on the sorting algorithm.
func (g *generator) fill() {
	n := 20 + g.rng.IntN(50)
	for i := 0; i < n; i++ {
		key := fmt.Sprintf("s%02d", g.rng.IntN(30))
		value := []byte{byte('0' + g.rng.IntN(3))}
		g.pending = append(g.pending, Step{"Put", &pb.PutRequest{Key: []byte(key), Value: value}})
	}
	targets := []pb.RangeRequest_SortTarget{pb.RangeRequest_VERSION, pb.RangeRequest_VALUE, pb.RangeRequest_MOD}
	for i := 0; i < 4; i++ {
		g.pending = append(g.pending, Step{"Range", &pb.RangeRequest{
			Key: []byte("s"), RangeEnd: []byte("t"), SortTarget: targets[g.rng.IntN(len(targets))],
			SortOrder: pb.RangeRequest_SortOrder(g.rng.IntN(3)), Limit: g.pick(0, 0, 5, 13, 29), KeysOnly: g.chance(300),
		}})
	}
}

func (g *generator) key() []byte {
	switch {
	case g.chance(15):
		return nil
	case g.chance(10):
		// A key that is nowhere else.
		return []byte(fmt.Sprintf("x%d", g.rng.IntN(1000)))
	case g.chance(500):
		return []byte(g.keys[g.rng.IntN(10)])
	}
	return []byte(g.keys[g.rng.IntN(len(g.keys))])
}

// rangeEnd returns an end for a range that starts at key. wide says how often, in 1000, it may reach far.
func (g *generator) rangeEnd(key []byte, wide int) []byte {
	if !g.chance(wide) {
		switch g.rng.IntN(4) {
		case 0:
			return append(append([]byte{}, key...), 0)
		case 1:
			return append([]byte{}, key...)
		default:
			return prefixEnd(key)
		}
	}
	switch g.rng.IntN(4) {
	case 0:
		return []byte{0}
	case 1:
		return []byte{0xff, 0xff, 0xff}
	case 2:
		return []byte("t")
	}
	return g.key()
}

func prefixEnd(key []byte) []byte {
	end := append([]byte{}, key...)
	for i := len(end) - 1; i >= 0; i-- {
		if end[i] < 0xff {
			end[i]++
			return end[:i+1]
		}
	}
	return []byte{0}
}

func (g *generator) value() []byte {
	switch {
	case g.chance(120):
		return nil
	case g.chance(500):
		return []byte{byte('0' + g.rng.IntN(5))}
	case g.chance(5):
		return g.bytes(20000 + g.rng.IntN(60000))
	}
	return g.bytes(g.rng.IntN(301))
}

func (g *generator) bytes(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(g.rng.Uint32())
	}
	return b
}

// revision returns a revision to read or hash at; zero says how often, in 1000, it is 0.
func (g *generator) revision(zero int) int64 {
	if g.chance(zero) {
		return 0
	}
	low := max(g.comp, 1)
	switch n := g.rng.IntN(100); {
	case n < 55:
		return low + g.rng.Int64N(g.cur-low+1)
	case n < 63:
		return g.comp
	case n < 68:
		return g.comp - 1
	case n < 78:
		return g.cur
	case n < 82:
		return g.cur + 1
	case n < 84:
		return g.cur + 1 + g.rng.Int64N(1000)
	case n < 87:
		return -1 - g.rng.Int64N(3)
	case n < 88:
		return math.MinInt64
	case n < 89:
		return math.MaxInt64
	case n < 93:
		return 1 + g.rng.Int64N(low)
	}
	return max(1, g.cur-g.rng.Int64N(5))
}

func (g *generator) limit() int64 {
	switch n := g.rng.IntN(100); {
	case n < 50:
		return 0
	case n < 90:
		return 1 + g.rng.Int64N(15)
	case n < 94:
		return 1000
	}
	return g.pick(-1, -7, math.MinInt64, math.MaxInt64, math.MaxInt64-1, 1<<32)
}

func (g *generator) rangeRequest() *pb.RangeRequest {
	r := &pb.RangeRequest{Key: g.key(), Limit: g.limit(), Revision: g.revision(550)}
	if g.chance(700) {
		r.RangeEnd = g.rangeEnd(r.Key, 600)
	}
	if g.chance(500) {
		r.SortOrder = pb.RangeRequest_SortOrder(g.rng.IntN(3))
		r.SortTarget = pb.RangeRequest_SortTarget(g.rng.IntN(5))
	}
	if g.chance(15) {
		r.SortOrder = pb.RangeRequest_SortOrder(g.pick(3, -1, 1000, math.MaxInt32))
	}
	if g.chance(15) {
		r.SortTarget = pb.RangeRequest_SortTarget(g.pick(5, -1, 1000, math.MinInt32))
	}
	r.Serializable = g.chance(400)
	r.KeysOnly = g.chance(200)
	r.CountOnly = g.chance(80)
	if g.chance(250) {
		g.filters(r)
	}
	return r
}

func (g *generator) filters(r *pb.RangeRequest) {
	bound := func() int64 {
		if g.chance(100) {
			return g.pick(-1, math.MinInt64, math.MaxInt64, g.cur+10)
		}
		return max(0, g.cur-g.rng.Int64N(60))
	}
	for _, field := range []*int64{
		&r.MinModRevision, &r.MaxModRevision, &r.MinCreateRevision, &r.MaxCreateRevision,
	} {
		if g.chance(400) {
			*field = bound()
		}
	}
}

func (g *generator) streamRequest() *pb.RangeRequest {
	r := g.rangeRequest()
	if g.chance(930) {
		r.MinModRevision, r.MaxModRevision, r.MinCreateRevision, r.MaxCreateRevision = 0, 0, 0, 0
		if r.SortOrder != pb.RangeRequest_NONE {
			r.SortOrder, r.SortTarget = pb.RangeRequest_ASCEND, pb.RangeRequest_KEY
		}
	}
	if g.chance(500) {
		r.Key, r.RangeEnd, r.Limit = []byte("a"), []byte{0}, g.pick(0, 0, 10, 20, 25, 30, 31)
	}
	return r
}

func (g *generator) lease(unknown int) int64 {
	if len(g.leases) == 0 || g.chance(unknown) {
		return g.pick(0, 1, -1, 7000, math.MaxInt64, math.MinInt64, 12345678)
	}
	return g.leases[g.rng.IntN(len(g.leases))]
}

func (g *generator) putRequest() *pb.PutRequest {
	r := &pb.PutRequest{Key: g.key(), Value: g.value(), PrevKv: g.chance(300)}
	if g.chance(180) {
		r.Lease = g.lease(80)
	}
	if g.chance(60) {
		r.IgnoreValue = true
		if g.chance(850) {
			r.Value = nil
		}
	}
	if g.chance(60) {
		r.IgnoreLease = true
		if g.chance(850) {
			r.Lease = 0
		}
	}
	return r
}

func (g *generator) deleteRequest() *pb.DeleteRangeRequest {
	r := &pb.DeleteRangeRequest{Key: g.key(), PrevKv: g.chance(400)}
	if g.chance(300) {
		r.RangeEnd = g.rangeEnd(r.Key, 200)
	}
	return r
}

func (g *generator) grantRequest() *pb.LeaseGrantRequest {
	r := &pb.LeaseGrantRequest{ID: 1 + g.rng.Int64N(40), TTL: 3000 + g.rng.Int64N(100000)}
	if g.chance(150) {
		r.ID = g.pick(-1, -2, math.MinInt64, math.MaxInt64, 1<<40)
	}
	if g.chance(60) {
		r.TTL = g.pick(9000000000, 9000000001, math.MaxInt64, 8999999999)
	}
	return r
}

func (g *generator) compactRequest() *pb.CompactionRequest {
	r := &pb.CompactionRequest{Physical: g.chance(500)}
	switch n := g.rng.IntN(100); {
	case n < 60:
		low := max(g.comp, 0)
		r.Revision = low + g.rng.Int64N(max(1, (g.cur-low)/2+1))
	case n < 70:
		r.Revision = g.cur - g.rng.Int64N(3)
	case n < 80:
		r.Revision = g.pick(g.comp, g.comp-1, 0, -1)
	default:
		r.Revision = g.pick(g.cur+1, g.cur+1000, math.MaxInt64, math.MinInt64, 0, g.comp, g.cur)
	}
	for r.Revision > g.comp && g.risky[r.Revision] {
		r.Revision--
	}
	return r
}

func (g *generator) txnRequest() *pb.TxnRequest {
	depth := 0
	for depth < 3 && g.chance(180) {
		depth++
	}
	r := g.txn(depth)
	if g.chance(12) {
		g.crowd(r)
	}
	avoidOpenDeleteThenIgnore(r)
	return r
}

func (g *generator) txn(depth int) *pb.TxnRequest {
	r := &pb.TxnRequest{}
	for n := g.rng.IntN(4); n > 0; n-- {
		r.Compare = append(r.Compare, g.compare())
	}
	used := map[string]bool{}
	for n := g.rng.IntN(5); n > 0; n-- {
		r.Success = append(r.Success, g.op(depth, used))
	}
	used = map[string]bool{}
	for n := g.rng.IntN(4); n > 0; n-- {
		r.Failure = append(r.Failure, g.op(depth, used))
	}
	return r
}

// crowd brings one list of the txn near the limit of 128 operations.
func (g *generator) crowd(r *pb.TxnRequest) {
	n := int(g.pick(100, 126, 127, 128, 129, 130))
	switch g.rng.IntN(3) {
	case 0:
		for len(r.Compare) < n {
			r.Compare = append(r.Compare, &pb.Compare{Key: []byte("a"), Target: pb.Compare_VERSION,
				Result: pb.Compare_GREATER, TargetUnion: &pb.Compare_Version{Version: -1}})
		}
	case 1:
		for len(r.Success) < n {
			r.Success = append(r.Success, rangeOp(&pb.RangeRequest{Key: []byte("a"), KeysOnly: true}))
		}
	default:
		for i := 0; len(r.Failure) < n; i++ {
			r.Failure = append(r.Failure, putOp(&pb.PutRequest{Key: []byte(fmt.Sprintf("t%03d", i%126))}))
		}
	}
}

func rangeOp(r *pb.RangeRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: r}}
}

func putOp(r *pb.PutRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: r}}
}

func deleteOp(r *pb.DeleteRangeRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: r}}
}

func txnOp(r *pb.TxnRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: r}}
}

func (g *generator) op(depth int, used map[string]bool) *pb.RequestOp {
	if g.chance(4) {
		return &pb.RequestOp{}
	}
	if depth > 0 && g.chance(500) {
		return txnOp(g.txn(depth - 1))
	}
	switch n := g.rng.IntN(100); {
	case n < 30:
		r := g.rangeRequest()
		if g.chance(850) {
			r.Revision = 0
		}
		return rangeOp(r)
	case n < 80:
		r := g.putRequest()
		for try := 0; used[string(r.Key)] && try < 6 && !g.chance(30); try++ {
			r.Key = g.key()
		}
		used[string(r.Key)] = true
		if g.chance(700) {
			r.IgnoreLease, r.IgnoreValue = false, false
		}
		return putOp(r)
	}
	r := g.deleteRequest()
	if len(r.RangeEnd) == 0 {
		for try := 0; used[string(r.Key)] && try < 6 && !g.chance(30); try++ {
			r.Key = g.key()
		}
		used[string(r.Key)] = true
	}
	if g.chance(60) {
		r.RangeEnd = []byte{0}
	}
	return deleteOp(r)
}

// compare makes a comparison that holds about as often as not.
func (g *generator) compare() *pb.Compare {
	c := &pb.Compare{Key: g.key(), Target: pb.Compare_CompareTarget(g.rng.IntN(5))}
	c.Result = pb.Compare_CompareResult(g.rng.IntN(4))
	kv := g.known[string(c.Key)]
	if kv == nil {
		kv = &mvccpb.KeyValue{}
	}
	near := func(v int64) int64 { return v + g.pick(0, 0, 0, 1, -1, 5) }
	switch c.Target {
	case pb.Compare_VERSION:
		c.TargetUnion = &pb.Compare_Version{Version: near(kv.Version)}
	case pb.Compare_CREATE:
		c.TargetUnion = &pb.Compare_CreateRevision{CreateRevision: near(kv.CreateRevision)}
	case pb.Compare_MOD:
		c.TargetUnion = &pb.Compare_ModRevision{ModRevision: near(kv.ModRevision)}
	case pb.Compare_LEASE:
		c.TargetUnion = &pb.Compare_Lease{Lease: near(kv.Lease)}
	case pb.Compare_VALUE:
		c.TargetUnion = &pb.Compare_Value{Value: kv.Value}
		if g.chance(300) {
			c.TargetUnion = &pb.Compare_Value{Value: g.value()}
		}
	}
	if g.chance(200) {
		c.RangeEnd = g.rangeEnd(c.Key, 400)
		if g.chance(600) {
			// Holds for many keys at once.
			c.Target, c.Result = pb.Compare_MOD, pb.Compare_LESS
			c.TargetUnion = &pb.Compare_ModRevision{ModRevision: g.cur + g.pick(1, 1, -5)}
		}
	}
	g.spoilCompare(c)
	return c
}

func (g *generator) spoilCompare(c *pb.Compare) {
	if g.chance(25) {
		c.Target = pb.Compare_CompareTarget(g.pick(5, -1, 99, math.MaxInt32))
	}
	if g.chance(25) {
		c.Result = pb.Compare_CompareResult(g.pick(4, -1, 99, math.MinInt32))
	}
	if g.chance(40) {
		c.TargetUnion = nil
	}
	if g.chance(40) {
		c.TargetUnion = &pb.Compare_Lease{Lease: g.lease(300)}
	}
	if g.chance(20) {
		c.TargetUnion = &pb.Compare_Value{Value: g.value()}
	}
}

// walk calls f for every operation of a txn, nested ones included.
func walk(r *pb.TxnRequest, f func(*pb.RequestOp)) {
	for _, list := range [][]*pb.RequestOp{r.Success, r.Failure} {
		for _, op := range list {
			f(op)
			if nested := op.GetRequestTxn(); nested != nil {
				walk(nested, f)
			}
		}
	}
}

func openDelete(op *pb.RequestOp) bool {
	end := op.GetRequestDeleteRange().GetRangeEnd()
	return len(end) == 1 && end[0] == 0
}

// avoidOpenDeleteThenIgnore keeps the first of etcd's two crashing inputs out of the mix.
func avoidOpenDeleteThenIgnore(r *pb.TxnRequest) {
	open := false
	walk(r, func(op *pb.RequestOp) { open = open || openDelete(op) })
	if !open {
		return
	}
	walk(r, func(op *pb.RequestOp) {
		if put := op.GetRequestPut(); put != nil {
			put.IgnoreValue, put.IgnoreLease = false, false
		}
	})
}

// recreates says whether a txn may delete a key and make it again, which makes its revision one that etcd must not
// be asked to compact at.
func recreates(r *pb.TxnRequest) bool {
	open, put := false, false
	walk(r, func(op *pb.RequestOp) {
		open = open || openDelete(op)
		put = put || op.GetRequestPut() != nil
	})
	return open && put
}

// Observe learns from the oracle's answer.
func (g *generator) Observe(s Step, a Answer) {
	if a.Code != 0 || len(a.Messages) == 0 {
		return
	}
	last := a.Messages[len(a.Messages)-1]
	if h, ok := last.(interface{ GetHeader() *pb.ResponseHeader }); ok {
		g.cur = max(g.cur, h.GetHeader().GetRevision())
	}
	switch req := s.Req.(type) {
	case *pb.RangeRequest:
		for _, m := range a.Messages {
			if resp, ok := m.(*pb.RangeResponse); ok {
				g.learn(resp.Kvs)
			}
		}
	case *pb.PutRequest:
		g.learn([]*mvccpb.KeyValue{{Key: req.Key, Value: req.Value, ModRevision: g.cur, Lease: req.Lease}})
	case *pb.TxnRequest:
		if recreates(req) {
			g.risky[g.cur] = true
		}
	case *pb.CompactionRequest:
		g.comp = req.Revision
	case *pb.LeaseGrantRequest:
		if s.Kind == "LeaseGrant" {
			g.leases = append(g.leases, last.(*pb.LeaseGrantResponse).ID)
		}
	case *pb.LeaseRevokeRequest:
		for i, id := range g.leases {
			if id == req.ID {
				g.leases = append(g.leases[:i], g.leases[i+1:]...)
				break
			}
		}
	}
}

func (g *generator) learn(kvs []*mvccpb.KeyValue) {
	for _, kv := range kvs {
		if old := g.known[string(kv.Key)]; old == nil || old.ModRevision <= kv.ModRevision {
			g.known[string(kv.Key)] = kv
		}
	}
}

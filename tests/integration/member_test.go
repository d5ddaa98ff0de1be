// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"fmt"
	"path/filepath"
	"sort"
	"strings"
	"testing"
	"time"

	"cairn/tests/harness"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

// alone is one server whose members are changed: nobody else uses it.
type alone struct {
	*harness.Server
	cluster     pb.ClusterClient
	maintenance pb.MaintenanceClient
	kv          pb.KVClient
	self        uint64
	ids         map[string]uint64 // Of members that were added, by a name of the test's.
}

func startAlone(t *testing.T, kind harness.Kind, args ...string) *alone {
	t.Helper()
	bin := harness.EtcdBin(t)
	if kind == harness.Cairn {
		bin = harness.CairnBin(t)
	}
	s, err := harness.New(harness.Options{Kind: kind, Bin: bin, Dir: filepath.Join(t.TempDir(), string(kind)), Args: args})
	must(t, err)
	t.Cleanup(s.Close)
	must(t, s.StartReady())
	conn, err := grpc.NewClient(s.Addr(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	must(t, err)
	t.Cleanup(func() { conn.Close() })
	a := &alone{Server: s, cluster: pb.NewClusterClient(conn), maintenance: pb.NewMaintenanceClient(conn),
		kv: pb.NewKVClient(conn), ids: map[string]uint64{}}
	list, err := a.cluster.MemberList(context.Background(), &pb.MemberListRequest{})
	must(t, err)
	a.self = list.Members[0].ID
	a.ids["self"] = a.self
	return a
}

// member prints what must be the same on both servers: ids by their names, this server's own URLs as "own".
func (a *alone) member(m *pb.Member) string {
	if m == nil {
		return "none"
	}
	name := "unknown"
	for n, id := range a.ids {
		if id == m.ID {
			name = n
		}
	}
	own := strings.NewReplacer(fmt.Sprintf("http://127.0.0.1:%d", a.PeerPort), "own", a.URL(), "own")
	return fmt.Sprintf("%s{%q %v %v %v}", name, m.Name, own.Replace(fmt.Sprint(m.PeerURLs)),
		own.Replace(fmt.Sprint(m.ClientURLs)), m.IsLearner)
}

func (a *alone) members(list []*pb.Member) string {
	ascending := sort.SliceIsSorted(list, func(i, j int) bool { return list[i].ID < list[j].ID })
	var texts []string
	for _, m := range list {
		texts = append(texts, a.member(m))
	}
	sort.Strings(texts) // Ids are made from the time, so their order differs.
	return fmt.Sprintf("%v ascending=%v", texts, ascending)
}

func (a *alone) header(h *pb.ResponseHeader) string {
	if h == nil {
		return "no header"
	}
	return fmt.Sprintf("cluster=%v self=%v revision=%d term=%v", h.ClusterId != 0, h.MemberId == a.self, h.Revision,
		h.RaftTerm)
}

func verdictOf(err error) string {
	s := status.Convert(err)
	return fmt.Sprintf("%s: %s", s.Code(), s.Message())
}

// urls puts this server's own peer URL in the place of OWN.
func (a *alone) urls(texts []string) (urls []string) {
	for _, u := range texts {
		urls = append(urls, strings.ReplaceAll(u, "OWN", fmt.Sprintf("http://127.0.0.1:%d", a.PeerPort)))
	}
	return urls
}

// step is one request; it returns what both servers must say alike.
type step struct {
	name string
	run  func(ctx context.Context, a *alone) string
}

func stepAdd(name string, learner bool, urls ...string) step {
	return step{fmt.Sprintf("add %s %v %q", name, learner, urls), func(ctx context.Context, a *alone) string {
		r, err := a.cluster.MemberAdd(ctx, &pb.MemberAddRequest{PeerURLs: a.urls(urls), IsLearner: learner})
		if err != nil {
			return verdictOf(err)
		}
		a.ids[name] = r.Member.ID
		return a.header(r.Header) + " " + a.member(r.Member) + " of " + a.members(r.Members)
	}}
}

func stepRemove(name string) step {
	return step{"remove " + name, func(ctx context.Context, a *alone) string {
		r, err := a.cluster.MemberRemove(ctx, &pb.MemberRemoveRequest{ID: a.ids[name]})
		if err != nil {
			return verdictOf(err)
		}
		return a.header(r.Header) + " " + a.members(r.Members)
	}}
}

func stepUpdate(name string, urls ...string) step {
	return step{fmt.Sprintf("update %s %q", name, urls), func(ctx context.Context, a *alone) string {
		r, err := a.cluster.MemberUpdate(ctx, &pb.MemberUpdateRequest{ID: a.ids[name], PeerURLs: a.urls(urls)})
		if err != nil {
			return verdictOf(err)
		}
		return a.header(r.Header) + " " + a.members(r.Members)
	}}
}

func stepPromote(name string) step {
	return step{"promote " + name, func(ctx context.Context, a *alone) string {
		r, err := a.cluster.MemberPromote(ctx, &pb.MemberPromoteRequest{ID: a.ids[name]})
		if err != nil {
			return verdictOf(err)
		}
		return a.header(r.Header) + " " + a.members(r.Members)
	}}
}

func stepList(linearizable bool) step {
	return step{fmt.Sprintf("list %v", linearizable), func(ctx context.Context, a *alone) string {
		r, err := a.cluster.MemberList(ctx, &pb.MemberListRequest{Linearizable: linearizable})
		if err != nil {
			return verdictOf(err)
		}
		return a.header(r.Header) + " " + a.members(r.Members)
	}}
}

func stepMove(name string) step {
	return step{"move leader to " + name, func(ctx context.Context, a *alone) string {
		r, err := a.maintenance.MoveLeader(ctx, &pb.MoveLeaderRequest{TargetID: a.ids[name]})
		if err != nil {
			return verdictOf(err)
		}
		return a.header(r.Header)
	}}
}

func stepStatus() step {
	return step{"status", func(ctx context.Context, a *alone) string {
		r, err := a.maintenance.Status(ctx, &pb.StatusRequest{})
		if err != nil {
			return verdictOf(err)
		}
		return fmt.Sprintf("leads=%v learner=%v downgrade=%v %v", r.Leader == a.self, r.IsLearner, r.DowngradeInfo,
			r.Errors)
	}}
}

// runSteps sends each step to both servers and compares.
func runSteps(t *testing.T, etcd, cairn *alone, steps []step) {
	t.Helper()
	for _, s := range steps {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		want, got := s.run(ctx, etcd), s.run(ctx, cairn)
		cancel()
		if want != got {
			t.Errorf("%s\n etcd:  %s\n Cairn: %s", s.name, want, got)
		}
		t.Logf("%s: %s", s.name, want)
	}
}

// TestMemberChanges makes the same changes to an etcd of one member and a Cairn of one, and looks at every answer.
func TestMemberChanges(t *testing.T) {
	etcd, cairn := startAlone(t, harness.Etcd), startAlone(t, harness.Cairn)
	runSteps(t, etcd, cairn, []step{
		stepList(false), stepList(true), stepStatus(),
		stepAdd("none", false), stepAdd("none", true),
		stepAdd("none", false, ""), stepAdd("none", false, "http://127.0.0.1"), stepAdd("none", false, "127.0.0.1:1"),
		stepAdd("none", false, "ftp://127.0.0.1:1"), stepAdd("none", false, "http://127.0.0.1:1/path"),
		stepAdd("none", false, "http://127.0.0.1:1", "x"), stepAdd("none", false, "http://127.0.0.1:1/"),
		stepAdd("none", false, "http://[::1:1"), stepAdd("none", false, "http://127.0.0.1:x"),
		stepAdd("none", false, "OWN"), stepAdd("none", true, "http://127.0.0.1:1", "OWN"),
		stepRemove("nobody"), stepRemove("self"), stepUpdate("nobody", "http://127.0.0.1:1"),
		stepPromote("nobody"), stepPromote("self"),
		stepMove("self"), stepMove("nobody"),
		stepAdd("l", true, " http://127.0.0.1:2", "HTTP://127.0.0.1:1"),
		stepList(true), stepStatus(),
		stepAdd("none", true, "http://127.0.0.1:3"), stepAdd("none", false, "http://127.0.0.1:2"),
		stepPromote("l"), stepMove("l"),
		stepUpdate("l", "OWN"), stepUpdate("l", "http://127.0.0.1:9", "OWN"),
		stepUpdate("l", "http://127.0.0.1:5", "http://127.0.0.1:4", "http://127.0.0.1:5"),
		stepUpdate("self", "http://127.0.0.1:5"), stepUpdate("self", "OWN"),
		stepList(true), stepRemove("l"), stepRemove("l"), stepUpdate("l", "http://127.0.0.1:1"), stepPromote("l"),
		stepAdd("l2", true, "http://127.0.0.1:4"), stepRemove("l2"), stepList(true),
	})
}

// TestMemberAddVoter adds a second voter, which never starts: the cluster has lost its quorum, and says how.
func TestMemberAddVoter(t *testing.T) {
	etcd, cairn := startAlone(t, harness.Etcd), startAlone(t, harness.Cairn)
	runSteps(t, etcd, cairn, []step{
		stepAdd("v", false, "http://127.0.0.1:1"), stepList(false),
		stepAdd("none", false, "http://127.0.0.1:2"), stepAdd("none", true, "http://127.0.0.1:2"),
		stepRemove("self"),
	})
}

// TestMemberLimits: --max-learners, and changes without the strict check.
func TestMemberLimits(t *testing.T) {
	args := []string{"--max-learners=2", "--strict-reconfig-check=false"}
	etcd, cairn := startAlone(t, harness.Etcd, args...), startAlone(t, harness.Cairn, args...)
	runSteps(t, etcd, cairn, []step{
		stepAdd("a", true, "http://127.0.0.1:1"), stepAdd("b", true, "http://127.0.0.1:2"),
		stepAdd("none", true, "http://127.0.0.1:3"), stepRemove("a"), stepAdd("c", true, "http://127.0.0.1:3"),
		stepPromote("b"), stepList(true),
	})
}

// TestMemberRestart: what was changed is there after a restart, and a removed id stays removed.
func TestMemberRestart(t *testing.T) {
	etcd, cairn := startAlone(t, harness.Etcd), startAlone(t, harness.Cairn)
	steps := []step{
		stepAdd("l", true, "http://127.0.0.1:1"), stepUpdate("l", "http://127.0.0.1:2"), stepAdd("gone", true, "x"),
		stepRemove("l"), stepAdd("m", true, "http://127.0.0.1:3"),
	}
	runSteps(t, etcd, cairn, steps)
	for _, s := range []*alone{etcd, cairn} {
		must(t, s.Kill9())
		must(t, s.StartReady())
	}
	runSteps(t, etcd, cairn, []step{
		stepList(true), stepRemove("l"), stepUpdate("l", "http://127.0.0.1:9"),
		stepAdd("none", true, "http://127.0.0.1:4"), stepPromote("m"),
	})
}

// TestMemberUpdateNonsense: etcd takes any text as a URL here, and its other members abort on it. Cairn takes none.
func TestMemberUpdateNonsense(t *testing.T) {
	cairn := startAlone(t, harness.Cairn)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for _, urls := range [][]string{nil, {"nonsense"}, {"http://127.0.0.1:1", ""}} {
		got := stepUpdate("self", urls...).run(ctx, cairn)
		if want := "InvalidArgument: etcdserver: given member URLs are invalid"; got != want {
			t.Errorf("%q: %s", urls, got)
		}
	}
}

// TestForceNewCluster: a member whose cluster is lost goes on alone, with its id and what it had.
func TestForceNewCluster(t *testing.T) {
	etcd, cairn := startAlone(t, harness.Etcd), startAlone(t, harness.Cairn)
	runSteps(t, etcd, cairn, []step{
		stepAdd("l", true, "http://127.0.0.1:2"), stepAdd("v", false, "http://127.0.0.1:1"), // No quorum from here on.
	})
	for _, s := range []*alone{etcd, cairn} {
		_, err := s.Terminate()
		must(t, err)
		s.Args = []string{"--force-new-cluster"}
		must(t, s.StartReady())
	}
	runSteps(t, etcd, cairn, []step{
		stepList(true), stepStatus(), stepRemove("v"), stepAdd("l2", true, "http://127.0.0.1:2"), stepList(true),
	})
}

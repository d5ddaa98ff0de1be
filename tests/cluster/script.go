// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"sort"
	"strings"
	"testing"
	"time"

	"cairn/tests/harness"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/status"
)

// script does things to a cluster and writes down what came of each, in words that don't depend on the run: members
// by name, addresses by whose they are. The same script on etcd and on Cairn must give the same text.
type script struct {
	t    *testing.T
	c    *harness.Cluster
	text strings.Builder

	nowheres int
}

// steady is for tests whose leader has to stay it, also when a member's thread or the disk stands still for two seconds.
const steady = "--election-timeout=3000"

func newScript(t *testing.T, kinds []harness.Kind) *script {
	t.Helper()
	s := &script{t: t, c: harness.StartCluster(t, kinds, steady)}
	s.c.MoveLeader(s.c.Members[0])
	for _, m := range s.c.Members {
		s.settle(m)
	}
	return s
}

func (s *script) member(index int) *harness.Member { return s.c.Members[index] }

// say writes one outcome down.
func (s *script) say(outcome, format string, args ...any) {
	fmt.Fprintf(&s.text, "%s: %s\n", fmt.Sprintf(format, args...), s.plain(outcome))
}

// outcome is "ok" or the error as a client sees it.
func outcome(err error) string {
	if err == nil {
		return "ok"
	}
	return fmt.Sprintf("%v: %s", status.Code(err), status.Convert(err).Message())
}

func (s *script) try(err error, format string, args ...any) { s.say(outcome(err), format, args...) }

func (s *script) ctx() context.Context { return harness.Context(s.t, 30*time.Second) }

func (s *script) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatalf("%v\nso far:\n%s", err, s.text.String())
	}
}

// A short id is padded with blanks by etcdctl.
var blanks = regexp.MustCompile(` +`)

var hexID = regexp.MustCompile(`\b[0-9a-f]{12,16}\b`)

// plain puts names in place of what differs from run to run.
func (s *script) plain(text string) string {
	for _, m := range s.c.Members {
		text = strings.ReplaceAll(text, m.Door, "door-of-"+m.Name)
		text = strings.ReplaceAll(text, m.Addr(), "address-of-"+m.Name)
		text = strings.ReplaceAll(text, m.Dir, "folder-of-"+m.Name)
		if m.ID != 0 {
			text = strings.ReplaceAll(text, fmt.Sprintf("%x", m.ID), "id-of-"+m.Name)
			text = strings.ReplaceAll(text, fmt.Sprint(m.ID), "number-of-"+m.Name)
		}
	}
	return hexID.ReplaceAllString(blanks.ReplaceAllString(text, " "), "some-id")
}

// list writes a list of members as words, in the order of what is written.
func (s *script) list(members []*pb.Member) string {
	var words []string
	for _, m := range members {
		kind := "voter"
		if m.IsLearner {
			kind = "learner"
		}
		words = append(words, s.plain(fmt.Sprintf("%q %s %v %v", m.Name, kind, m.PeerURLs, m.ClientURLs)))
	}
	sort.Strings(words)
	return strings.Join(words, "; ")
}

func (s *script) listThrough(m *harness.Member) {
	s.t.Helper()
	resp, err := m.Client().MemberList(s.ctx(), &pb.MemberListRequest{Linearizable: true})
	s.must(err)
	s.say(s.list(resp.Members), "list through %s", m.Name)
}

// patiently repeats a change while the cluster calls itself unhealthy, as it does for five seconds after any member
// came, and then notes the outcome.
func (s *script) patiently(f func() error) error {
	var err error
	for deadline := time.Now().Add(harness.ReadyLimit); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		if err = f(); err == nil || !strings.Contains(err.Error(), "unhealthy cluster") {
			return err
		}
	}
	return err
}

// nowhere is an address where nobody is. It is another each time: a member's id is made of its addresses and the time
// in seconds, so an address that was used a moment ago would give the id of a removed member, which is refused.
func (s *script) nowhere() string {
	s.nowheres++
	return fmt.Sprintf("http://127.0.0.1:%d", s.nowheres)
}

// settle waits until a member finds the cluster healthy enough to grow.
func (s *script) settle(m *harness.Member) {
	s.t.Helper()
	err := s.patiently(func() error {
		_, err := m.Client().MemberAdd(s.ctx(), &pb.MemberAddRequest{PeerURLs: []string{m.PeerURL()}})
		return err
	})
	if want := "FailedPrecondition: etcdserver: Peer URLs already exists"; outcome(err) != want {
		s.t.Fatalf("%s adds a known address: want %s, got %s", m.Name, want, outcome(err))
	}
}

// add adds a member that never starts, and takes it out again when that worked.
func (s *script) add(through *harness.Member, learner bool, urls ...string) {
	s.t.Helper()
	if len(urls) == 0 {
		urls = []string{s.nowhere()}
	}
	var resp *pb.MemberAddResponse
	err := s.patiently(func() (err error) {
		resp, err = through.Client().MemberAdd(s.ctx(), &pb.MemberAddRequest{PeerURLs: urls, IsLearner: learner})
		return err
	})
	what := "voter"
	if learner {
		what = "learner"
	}
	s.try(err, "add %s %q through %s", what, s.plain(strings.Join(urls, " ")), through.Name)
	if err != nil {
		return
	}
	s.say(s.list([]*pb.Member{resp.Member})+" | "+s.list(resp.Members), "its answer")
	_, err = through.Client().MemberRemove(s.ctx(), &pb.MemberRemoveRequest{ID: resp.Member.ID})
	s.try(err, "remove it")
}

// etcdctl runs the stock command-line client against some members.
func (s *script) etcdctl(members []*harness.Member, args ...string) string {
	s.t.Helper()
	cmd := exec.CommandContext(s.ctx(), harness.EtcdctlBin(s.t), append([]string{
		"--endpoints=" + strings.Join(addresses(members), ",")}, args...)...)
	cmd.Env = harness.CleanEnv()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	text := stdout.String()
	for _, line := range strings.Split(stderr.String(), "\n") {
		if line != "" && !strings.HasPrefix(line, "{") { // The client's own log.
			text += "stderr: " + line + "\n"
		}
	}
	if err != nil {
		text += err.Error() + "\n"
	}
	return text
}

// waitExit waits for a member's process to end by itself and says how it did.
func (s *script) waitExit(m *harness.Member) string {
	s.t.Helper()
	select {
	case <-m.Exited():
	case <-time.After(30 * time.Second):
		s.t.Fatalf("%s still runs after 30 s\n%s", m.Name, m.LogTail(20))
	}
	state, err := m.Terminate() // Only collects the state.
	s.must(err)
	return state.String()
}

// logged says whether the member's log, since its last start, has a phrase.
func (s *script) logged(m *harness.Member, phrase string) string {
	data, err := os.ReadFile(m.LogPath())
	s.must(err)
	text := string(data)
	text = text[strings.LastIndex(text, "---- start "):]
	if strings.Contains(text, phrase) {
		return fmt.Sprintf("its log has %q", phrase)
	}
	return fmt.Sprintf("its log does not have %q", phrase)
}

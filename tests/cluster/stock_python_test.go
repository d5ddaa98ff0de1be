// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"

	"cairn/tests/harness"
)

// python is a tool with an input, at whose end it ends.
type python struct {
	*tool
	input io.Closer
}

// pythonBin finds a Python that has the package etcd3: that of the tests, or the machine's.
func pythonBin() string {
	for _, bin := range []string{os.Getenv("CAIRN_PYTHON"), "../../build/venv/bin/python", "python3"} {
		if bin != "" && pythonCommand(bin, "-c", "import etcd3").Run() == nil {
			return bin
		}
	}
	return ""
}

// The package comes with stubs that only protobuf's pure Python takes.
func pythonCommand(bin string, args ...string) *exec.Cmd {
	cmd := exec.Command(bin, args...)
	cmd.Env = append(harness.CleanEnv(), "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION=python")
	return cmd
}

func (s *stock) startPython() *python {
	s.t.Helper()
	bin := pythonBin()
	if bin == "" {
		return nil
	}
	s.spared = s.g.c.Members[0]
	cmd := pythonCommand(bin, "etcd3_loop.py", s.spared.Addr(), "w/", "python", fmt.Sprint(stockTTL))
	input, err := cmd.StdinPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	return &python{launch(s.t, cmd), input}
}

func (s *stock) checkPython(p *python) {
	s.t.Helper()
	s.present("python")
	want := s.written()
	s.until("Python's watch has not told everything", func() bool { return len(p.out.lines()) >= len(want) || p.ended() })
	p.input.Close()
	if p.exit() != 0 {
		s.t.Fatal(p.errors.String())
	}
	var got []printed
	var end struct {
		Key, Value, Lost  string
		Revision, Renewed int64
		Failures          map[string]int
	}
	for _, line := range p.out.lines() {
		if err := json.Unmarshal([]byte(line), &end); err != nil {
			s.t.Fatalf("%q: %v", line, err)
		}
		if strings.Contains(line, `"revision"`) {
			got = append(got, printed{end.Key, end.Value, end.Revision})
		}
	}
	if err := checkPrinted(got, want); err != nil {
		s.t.Errorf("watch: %v", err)
	}
	if end.Lost != "" || end.Renewed < 5 {
		s.t.Errorf("the lease was renewed %d times and lost: %q", end.Renewed, end.Lost)
	}
	s.t.Logf("%d events, %d renewals, failures %v", len(got), end.Renewed, end.Failures)
}

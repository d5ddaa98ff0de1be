// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
)

// CairnBin returns the server under test, or skips the test when CAIRN_BIN doesn't name one.
func CairnBin(t testing.TB) string {
	t.Helper()
	bin := os.Getenv("CAIRN_BIN")
	if bin == "" {
		t.Skip("CAIRN_BIN is not set: skipped what needs the Cairn server")
	}
	if _, err := os.Stat(bin); err != nil {
		t.Fatalf("CAIRN_BIN: %v", err)
	}
	return bin
}

// EtcdBin returns the oracle, etcd 3.7.1: ETCD_BIN, else built from the published module.
func EtcdBin(t testing.TB) string {
	t.Helper()
	return toolBin(t, "ETCD_BIN", "etcd", "go.etcd.io/etcd/server/v3")
}

// EtcdctlBin returns etcd's command-line client.
func EtcdctlBin(t testing.TB) string {
	t.Helper()
	return toolBin(t, "ETCDCTL_BIN", "etcdctl", "go.etcd.io/etcd/etcdctl/v3")
}

// BenchmarkBin returns etcd's own benchmark client.
func BenchmarkBin(t testing.TB) string {
	t.Helper()
	return toolBin(t, "BENCHMARK_BIN", "benchmark", "go.etcd.io/etcd/v3/tools/benchmark")
}

func toolBin(t testing.TB, variable, name, pkg string) string {
	t.Helper()
	bin, err := Tool(variable, name, pkg)
	if err != nil {
		t.Fatal(err)
	}
	return bin
}

var toolState struct {
	sync.Mutex
	built map[string]string
}

// Tool returns the file that the environment variable names; without it the package is built once per process. The
// Go build cache makes later builds quick.
func Tool(variable, name, pkg string) (string, error) {
	if bin := os.Getenv(variable); bin != "" {
		if _, err := os.Stat(bin); err != nil {
			return "", fmt.Errorf("%s: %w", variable, err)
		}
		return bin, nil
	}
	toolState.Lock()
	defer toolState.Unlock()
	if bin := toolState.built[name]; bin != "" {
		return bin, nil
	}
	dir := filepath.Join(os.TempDir(), "cairn-test-tools-"+strconv.Itoa(os.Getuid()))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	bin := filepath.Join(dir, name+"-"+strconv.Itoa(os.Getpid()))
	if out, err := exec.Command("go", "build", "-o", bin, pkg).CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build %s: %w\n%s", pkg, err, out)
	}
	// One file per name is left behind, replaced in one step, so that nobody runs a half-written one.
	final := filepath.Join(dir, name)
	if err := os.Rename(bin, final); err != nil {
		return "", err
	}
	if toolState.built == nil {
		toolState.built = map[string]string{}
	}
	toolState.built[name] = final
	return final, nil
}

// EnvInt reads a number from the environment.
func EnvInt(name string, otherwise int) int {
	if v, err := strconv.Atoi(os.Getenv(name)); err == nil {
		return v
	}
	return otherwise
}

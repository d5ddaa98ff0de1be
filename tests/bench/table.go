// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"unicode/utf8"
)

// spread is the median, lowest and highest of some runs.
type spread struct{ median, low, high float64 }

func spreadOf[T any](samples []T, f func(T) float64) spread {
	v := make([]float64, 0, len(samples))
	for _, s := range samples {
		v = append(v, f(s))
	}
	slices.Sort(v)
	return spread{v[len(v)/2], v[0], v[len(v)-1]}
}

func (s spread) text(digits int) string {
	if s.low == s.high {
		return fmt.Sprintf("%.*f", digits, s.median)
	}
	return fmt.Sprintf("%.*f (%.*f-%.*f)", digits, s.median, digits, s.low, digits, s.high)
}

// times says how many times of the other's figure this is.
func times(figure, other float64) string {
	if other == 0 {
		return "-"
	}
	return fmt.Sprintf("%.3g", figure/other)
}

// table collects rows and prints them with equal column widths, or as Markdown. Rows are shown as they come, so that a
// long run can be watched; the whole table follows at its end.
type table struct {
	markdown bool
	rows     [][]string
}

func (t *table) start(head ...string) {
	t.rows = [][]string{head}
	fmt.Printf("figures are etcd / Cairn, ratios Cairn : etcd, (lowest-highest)\n\n")
}

func (t *table) add(row ...string) {
	t.rows = append(t.rows, row)
	fmt.Fprintln(os.Stderr, strings.Join(row, "  "))
}

func (t *table) end() {
	width := make([]int, len(t.rows[0]))
	for _, row := range t.rows {
		for i, cell := range row {
			width[i] = max(width[i], utf8.RuneCountInString(cell))
		}
	}
	for n, row := range t.rows {
		for i, cell := range row {
			pad := strings.Repeat(" ", width[i]-utf8.RuneCountInString(cell))
			if t.markdown {
				fmt.Printf("| %s%s ", cell, pad)
			} else {
				fmt.Printf("%s%s  ", cell, pad)
			}
		}
		if t.markdown {
			fmt.Print("|")
		}
		fmt.Println()
		if n == 0 && t.markdown {
			fmt.Println(strings.Repeat("|---", len(width)) + "|")
		}
	}
	fmt.Println()
}

// machine says in one line where the figures were taken.
func machine() string {
	model := "unknown processor"
	if data, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for _, line := range strings.Split(string(data), "\n") {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				model = strings.TrimSpace(value)
				break
			}
		}
	}
	kernel, _ := exec.Command("uname", "-r").Output()
	return fmt.Sprintf("%d x %s, Linux %s, client %s", runtime.NumCPU(), model, strings.TrimSpace(string(kernel)),
		runtime.Version())
}

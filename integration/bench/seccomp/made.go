package main

import (
	"errors"
	"os"
	"time"

	"github.com/cordonhq/cordon/seccomp"
	"github.com/cordonhq/cordon/seccomp/compile"
)

// compiled measures making a program: by the library, from a file, from memory.
func (r *report) compiled(e effort, name string, f seccomp.Filter) error {
	dir, err := os.MkdirTemp("", "cordon-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	held := seccomp.NewCache("", compile.Compile)
	ways := []struct {
		name string
		make func() ([]byte, error)
	}{
		{"compile_cold_us", func() ([]byte, error) { return compile.Compile(f) }},
		{"compile_cached_file_us", func() ([]byte, error) { return seccomp.NewCache(dir, compile.Compile).Program(f) }},
		{"compile_cached_memory_us", func() ([]byte, error) { return held.Program(f) }},
	}
	samples := make([][]float64, len(ways))
	for i := range e.compiles + 1 { // the first fills the caches
		for j, way := range ways {
			from := time.Now()
			if _, err := way.make(); err != nil {
				return err
			}
			if took := time.Since(from); i > 0 {
				samples[j] = append(samples[j], float64(took.Nanoseconds())/1000)
			}
		}
	}
	r.say("\nmaking the program of builtin:%s, microseconds", name)
	for j, way := range ways {
		r.figure(way.name, median(samples[j]), 0)
	}
	return nil
}

// loaded measures loading a program in linear and in tree order.
func (r *report) loaded(e effort, name string, f seccomp.Filter) error {
	tree, err := compile.Compile(f)
	if err != nil {
		return err
	}
	linear, err := compile.CompileLinear(f)
	if err != nil {
		return err
	}
	samples := make([][]float64, 2)
	for range e.loads {
		for i, program := range [][]byte{linear, tree} {
			took, err := loadOnce(program)
			if err != nil {
				return err
			}
			samples[i] = append(samples[i], took)
		}
	}
	r.say("\nloading the program of builtin:%s, microseconds: %d instructions linear, %d as a tree", name, len(linear)/8, len(tree)/8)
	inLine, asTree := median(samples[0]), median(samples[1])
	r.figure("load_linear_us", inLine, 0)
	r.figure("load_tree_us", asTree, 0)
	r.figure("load_tree_to_linear", asTree/inLine, 1)
	return nil
}

// loadOnce is one loading in a process of its own, in microseconds.
func loadOnce(program []byte) (took float64, err error) {
	v, err := spawn(roleLoader, "0", program)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, v.end()) }()
	ns, err := v.answer()
	return float64(ns) / 1000, err
}

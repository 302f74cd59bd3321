package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// planted is the variable that holds what no plugin must see.
const planted = "CORDON_DEMO_TOKEN"

// showDoctor is point 1: which walls this host can give.
func showDoctor(ctx context.Context, s *stage) error {
	_, err := s.show(ctx, "doctor")
	return err
}

// showEverything is point 2: a real MCP server works behind the walls, and its
// own environment tool finds the secret only without them.
func showEverything(ctx context.Context, s *stage) error {
	say("A token is planted in the environment: %s=%s", planted, s.secret)
	say("Run bare, server-everything finds it with its own tool, get-env:")
	bare := exec.CommandContext(ctx, filepath.Join(s.root, nodeBinary),
		filepath.Join(s.root, "examples/everything/node_modules/@modelcontextprotocol/server-everything/dist/index.js"))
	bare.Env = append(os.Environ(), planted+"="+s.secret)
	result, err := bareTool(ctx, bare, "get-env")
	if err != nil {
		return fmt.Errorf("server-everything, bare: %w", err)
	}
	at := strings.Index(result, planted)
	if at < 0 || !strings.Contains(result, s.secret) {
		return fmt.Errorf("server-everything, bare, does not show the secret: %s", cut(result))
	}
	printOutput("... " + result[at:at+strings.Index(result[at:], s.secret)+len(s.secret)] + " ...")

	say("The same program behind the walls, started by a daemon that has the token too:")
	if err := s.install(ctx, "everything", "everything", "node", maxLines); err != nil {
		return err
	}
	if err := s.expect(ctx, `"get-env"`, "call", "everything", "tools/list"); err != nil {
		return err
	}
	if err := s.expect(ctx, "Echo: hello", "call", "everything", "tools/call", `{"name":"echo","arguments":{"message":"hello"}}`); err != nil {
		return err
	}
	out, err := s.show(ctx, "call", "everything", "tools/call", `{"name":"get-env","arguments":{}}`)
	if err != nil {
		return err
	}
	if strings.Contains(out, s.secret) || strings.Contains(out, planted) || !strings.Contains(out, "HOME") {
		return fmt.Errorf("the environment behind the walls is not the one that was expected: %s", out)
	}
	say("It answers as before, and there is nothing of the token.")
	return nil
}

// showFilesystem is point 3: the wall refuses what the server itself allows.
func showFilesystem(ctx context.Context, s *stage) error {
	say("server-filesystem is told to serve /srv/granted and /srv/listed. The profile lets it")
	say("read the first, and see no more than the names in the second.")
	if err := s.install(ctx, "filesystem", "filesystem", "files", 12); err != nil {
		return err
	}
	if err := s.expect(ctx, "this note may be read", "call", "filesystem", "tools/call",
		`{"name":"read_text_file","arguments":{"path":"/srv/granted/note.txt"}}`); err != nil {
		return err
	}
	if err := s.expect(ctx, "diary.txt", "call", "filesystem", "tools/call",
		`{"name":"list_directory","arguments":{"path":"/srv/listed"}}`); err != nil {
		return err
	}
	const diary = "/srv/listed/diary.txt"
	out, err := s.show(ctx, "call", "filesystem", "tools/call", `{"name":"read_text_file","arguments":{"path":"`+diary+`"}}`)
	if err != nil {
		return err
	}
	if strings.Contains(out, "may not") || !strings.Contains(out, "EACCES") {
		return fmt.Errorf("the diary was not refused by the kernel: %s", out)
	}
	say("The server allows that path and tried; the kernel refused (EACCES). The file watch saw it:")
	if _, err := s.show(ctx, "why", "filesystem"); err != nil {
		return err
	}
	return await(ctx, "the file watch to report "+diary, func() (bool, error) {
		list, err := s.why(ctx, "filesystem")
		for _, v := range list {
			if v.Wall == "files" && v.Path == diary {
				return true, nil
			}
		}
		return false, err
	})
}

// showLanguageServer is point 4: an editor's own protocol, through the daemon.
func showLanguageServer(ctx context.Context, s *stage) error {
	if err := s.install(ctx, "bash-language-server", "bash-language-server", "node", 1); err != nil {
		return err
	}
	say("An editor would run cordon attach as its language server; here is its first call, initialize:")
	printCommand([]string{"attach", "bash-language-server"})
	result, err := initialize(ctx, s.command(ctx, "attach", "bash-language-server"))
	if err != nil {
		return err
	}
	printOutput(result)
	var answer struct {
		Capabilities map[string]any `json:"capabilities"`
	}
	if err := json.Unmarshal([]byte(result), &answer); err != nil || answer.Capabilities["hoverProvider"] == nil {
		return fmt.Errorf("this is no answer of bash-language-server: %s", cut(result))
	}
	return nil
}

// showSmall calls the plugins of ours.
func showSmall(ctx context.Context, s *stage) error {
	for _, p := range []struct{ dir, name, profile, method, params, want string }{
		{"python", "words", "builtin:python", "words.count", `{"text":"walls and more walls"}`, `"words":4`},
		{"go", "digest", "builtin:static", "digest.sha256", `{"text":"cordon"}`, `"sha256":"`},
		{"shell", "greeter", "builtin:shell", "greet", `{}`, "Hello from process"},
	} {
		if err := s.install(ctx, p.dir, p.name, p.profile, 1); err != nil {
			return err
		}
		if err := s.expect(ctx, p.want, "call", p.name, p.method, p.params); err != nil {
			return err
		}
	}
	return nil
}

// showList is point 6.
func showList(ctx context.Context, s *stage) error {
	out, err := s.show(ctx, "ps")
	if err != nil {
		return err
	}
	for _, column := range []string{"UPTIME", "RESTARTS", "MEMORY", "STATE"} {
		if !strings.Contains(strings.ToUpper(out), column) {
			return fmt.Errorf("cordon ps has no column %s", column)
		}
	}
	return nil
}

// expect shows a command whose output, spaces aside, has to contain want.
func (s *stage) expect(ctx context.Context, want string, args ...string) error {
	out, err := s.show(ctx, args...)
	if err != nil {
		return err
	}
	if !strings.Contains(squeeze(out), squeeze(want)) {
		return fmt.Errorf("cordon %s did not answer %s but: %s", strings.Join(args, " "), want, cut(out))
	}
	return nil
}

// squeeze removes what differs between compact and indented JSON.
func squeeze(text string) string {
	return strings.Join(strings.Fields(text), "")
}

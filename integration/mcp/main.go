// Command mcp is a client of MCP that nobody here wrote: the official SDK's. It
// starts the command that it is given as a server, uses what a client uses, and
// says what came back.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// patience is when something has failed; it times nothing.
const patience = 2 * time.Minute

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := use(ctx, exec.Command(os.Args[1], os.Args[2:]...)); err != nil {
		fmt.Fprintln(os.Stderr, "cannot use the server:", err)
		os.Exit(1)
	}
}

func use(ctx context.Context, server *exec.Cmd) error {
	server.Stderr = os.Stderr
	client := mcp.NewClient(&mcp.Implementation{Name: "official", Version: "1.8.0"}, nil)
	session, err := client.Connect(ctx, &mcp.CommandTransport{Command: server, TerminateDuration: time.Second}, nil)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	fmt.Println("server:", session.InitializeResult().ServerInfo.Name)
	if err := session.Ping(ctx, nil); err != nil {
		return fmt.Errorf("ping: %w", err)
	}
	tools, err := session.ListTools(ctx, nil)
	if err != nil {
		return fmt.Errorf("tools: %w", err)
	}
	fmt.Println("tools:", len(tools.Tools))
	resources, err := session.ListResources(ctx, nil)
	if err != nil {
		return fmt.Errorf("resources: %w", err)
	}
	fmt.Println("resources:", len(resources.Resources))
	for i := range 20 {
		result, err := session.CallTool(ctx, &mcp.CallToolParams{Name: "echo", Arguments: map[string]any{"message": fmt.Sprint("hello ", i)}})
		if err != nil {
			return fmt.Errorf("call: %w", err)
		}
		text, ok := result.Content[0].(*mcp.TextContent)
		if want := fmt.Sprint("Echo: hello ", i); !ok || text.Text != want {
			return fmt.Errorf("call: got %v, want %s", result.Content[0], want)
		}
	}
	fmt.Println("calls: 20")
	var ended *exec.ExitError
	if err := session.Close(); err != nil && !errors.As(err, &ended) { // a server that goes on is told to end by a signal
		return err
	}
	return nil
}

#!/bin/sh
# A plugin in POSIX shell: one JSON-RPC 2.0 request a line on standard input,
# one reply a line on standard output.
#
# A shell cannot parse JSON. It relies on the host writing its requests without
# spaces, with a number for the id, and looks at no more than it needs.
while IFS= read -r line; do
    case $line in
    *'"id":'*) ;;
    *) continue ;; # a notification wants no answer
    esac
    id=${line#*'"id":'}
    id=${id%%[!0-9]*}
    case $line in
    *'"method":"greet"'*)
        printf '{"jsonrpc":"2.0","id":%s,"result":{"text":"Hello from process %s"}}\n' "$id" "$$"
        ;;
    *)
        printf '{"jsonrpc":"2.0","id":%s,"error":{"code":-32601,"message":"cannot find this method"}}\n' "$id"
        ;;
    esac
done

package namespaces

//go:generate go run ./internal/wiregen .
//go:generate sh keeper/build.sh

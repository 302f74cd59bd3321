module github.com/cordonhq/cordon/sdk/go

go 1.24

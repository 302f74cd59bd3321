module ledger

go 1.26

require github.com/cordonhq/cordon/sdk/go v0.1.0

replace github.com/cordonhq/cordon/sdk/go => ../../sdk/go

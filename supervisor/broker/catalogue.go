package broker

import (
	"github.com/cordonhq/cordon/supervisor/broker/capability"
	"github.com/cordonhq/cordon/supervisor/broker/data"
	"github.com/cordonhq/cordon/supervisor/broker/dial"
	"github.com/cordonhq/cordon/supervisor/broker/fsopen"
	"github.com/cordonhq/cordon/supervisor/broker/host"
	"github.com/cordonhq/cordon/supervisor/broker/kv"
	"github.com/cordonhq/cordon/supervisor/broker/listen"
	"github.com/cordonhq/cordon/supervisor/broker/logs"
	"github.com/cordonhq/cordon/supervisor/broker/metric"
	"github.com/cordonhq/cordon/supervisor/broker/secret"
)

// Host is what the capabilities are made of.
type Host struct {
	Stores  *kv.Stores
	Metrics *metric.Store
	Secrets func(name string) (secret.Source, bool)
	// Functions are what applications serve.
	Functions *host.Functions
	// Run is a directory that root alone can enter, for sockets.
	Run string
}

// Catalogue is everything that a host serves: the whole table.
func Catalogue(h Host) []capability.Capability {
	return []capability.Capability{
		data.New(),
		egress(),
		fsopen.New(),
		h.Stores.New(),
		logs.New(),
		metric.New(h.Metrics),
		dial.New(),
		host.New(h.Functions),
		listen.New(h.Run),
		ingress(),
		secret.New(h.Secrets),
	}
}

// egress has no methods: programs use it without knowing.
func egress() capability.Capability {
	return capability.Capability{
		Name: "egress",
		Text: "Places that programs reach by name as if they had a network: network.egress of the profile. Each connection is checked, counted and recorded as a call is.",
		Cost: capability.Network, Phases: capability.Always(),
	}
}

// ingress has no methods either.
func ingress() capability.Capability {
	return capability.Capability{
		Name: "listen",
		Text: "Addresses of the host at which a plugin is reached, by listening sockets that it has from its start, as under systemd: network.listen of the profile. Each connection is checked, counted and recorded as a call is.",
		Cost: capability.Network, Phases: capability.Always(),
	}
}

package main

import "strings"

// tier is a package whose tests run in the guest.
type tier struct {
	pkg    string // below the module
	tags   string
	run    string // go test's -run; the seeds of fuzz targets ask no kernel
	leaves []left
	env    []string
	// cgo is set where a library in C is linked, which takes long.
	cgo bool
}

// left are tests of a tier that no guest runs. docs/vm.md lists them, too.
type left struct {
	tests []string
	why   string
}

// tiers are the packages whose tests ask the kernel. The rest of the tests ask
// nothing that another kernel would answer otherwise.
var tiers = []tier{
	{pkg: "namespaces", leaves: []left{{
		tests: []string{"TestWireIsGenerated", "TestKeeperIsReproducible", "TestKeeperUnderSanitizers"},
		why:   "the Go toolchain and the compiler's sanitizers, which guests have not",
	}}},
	{pkg: "cgroups"},
	{pkg: "seccomp"},
	{pkg: "seccomp/compile", cgo: true, leaves: []left{{
		tests: []string{"TestProgramMeansWhatTheFilterSays", "TestRandomFilters", "TestBytesAreDeterministic"},
		why:   "an interpreter of filters, which asks no kernel",
	}}},
	{pkg: "supervisor/volume"},
	{pkg: "supervisor/broker/fsopen"},
	{pkg: "supervisor/launch", cgo: true, env: []string{"CORDON_TEST_STARTS=30"}},
	{pkg: "supervisor/launch", cgo: true, tags: "walltest", run: "TestEachWall"},
	{pkg: "integration/escape", cgo: true, tags: "walltest"},
	{pkg: "integration", env: []string{"CORDON_CHAOS_POINTS=5", "CORDON_CONTINUITY_ROUNDS=3"}, leaves: []left{
		{
			tests: []string{"TestOfficialMCPClient"},
			why:   "the Go toolchain, which builds the client; its plugin runs in TestRealProgramsRunOnBuiltinProfiles",
		},
		{
			tests: []string{"TestWhyGivesBackWhatWasTakenOut"},
			why:   "the language of profiles, in hundreds of runs; the walls themselves refuse in TestWhyAllowsWhatEachWallRefused",
		},
		{
			tests: []string{"TestWhyAllowsWhatAPluginWasRefused", "TestHostFunctions", "TestContractsHoldBothWays", "TestSchemaAgrees", "TestWhoTouchedWhat"},
			why:   "what the daemon itself refuses and serves, by protocol, grant, contract and log, which no kernel sees",
		},
		{
			tests: []string{"TestSoak"},
			why:   "what the daemon makes of a broken protocol, which no kernel sees",
		},
		{
			tests: []string{"TestStormIsQuarantined"},
			why:   "more calls in a second than an emulated machine makes; TestAFloodOfDeniedCallsIsSummarisedAndEndsInQuarantine has a lower limit",
		},
	}},
}

func (t tier) name() string {
	if t.tags == "" {
		return module + "/" + t.pkg
	}
	return module + "/" + t.pkg + " -tags " + t.tags
}

func (t tier) binary() string {
	return strings.ReplaceAll(t.pkg, "/", "-") + strings.TrimSuffix("-"+t.tags, "-") + ".test"
}

func (t tier) way() way { return way{tags: t.tags, cgo: t.cgo} }

// skip is what the tier leaves out, for go test's -skip.
func (t tier) skip() string {
	var names []string
	for _, l := range t.leaves {
		names = append(names, l.tests...)
	}
	return "^(" + strings.Join(names, "|") + ")$"
}

// sayLeft says what is not run, and why: it is never left out silently.
func sayLeft(t tier) {
	for _, l := range t.leaves {
		say("%s leaves out %s: it asks %s", t.pkg, strings.Join(l.tests, ", "), l.why)
	}
}

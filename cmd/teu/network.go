//go:build !front && !porter

package main

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/teu-dev/teu/cmd/teu/ui"
	"github.com/teu-dev/teu/runner/network"
)

func newNetworkCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "network",
		Short: "Manage networks",
		Example: `  teu network create app
  teu run -d --network app --name db registry.example/postgres
  teu run --rm --network app registry.example/client db`,
	}
	cmd.AddCommand(newNetworkConnectCommand(a), newNetworkCreateCommand(a), newNetworkDisconnectCommand(a), newNetworkInspectCommand(a),
		newNetworkLsCommand(a), newNetworkPruneCommand(a), newNetworkOutletCommand(a), newNetworkRepairCommand(a), newNetworkRmCommand(a))
	return cmd
}

// networkFlags are those of network create.
type networkFlags struct {
	driver, ipamDriver, configFrom, scope     string
	subnets, ranges, gateways, auxes          []string
	options, ipamOptions, labels              []string
	internal, attachable, ingress, configOnly bool
	ipv4, ipv6                                bool
}

func newNetworkCreateCommand(a *app) *cobra.Command {
	var c networkFlags
	cmd := &cobra.Command{
		Use:   "create [OPTIONS] NETWORK",
		Short: "Create a network",
		Long: `Create a network.

Containers on a network find each other by name and cannot be reached from other
networks. With --internal nothing leads out of it.`,
		Example: `  teu network create app
  teu network create --ipv6 --subnet 10.7.0.0/24 --gateway 10.7.0.1 app
  teu network create -d macvlan -o parent=eth0 --subnet 192.168.1.0/24 lan`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o, err := c.create(cmd.Flags(), args[0])
			if err != nil {
				return err
			}
			n, err := a.engine().CreateNetwork(cmd.Context(), o)
			if err != nil {
				return err
			}
			a.ui.Println(n.ID)
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVarP(&c.driver, "driver", "d", "bridge", "bridge, macvlan or ipvlan")
	f.StringSliceVar(&c.subnets, "subnet", nil, "subnet in CIDR form; without one it is chosen")
	f.StringSliceVar(&c.ranges, "ip-range", nil, "part of the subnet from which addresses are given")
	f.StringSliceVar(&c.gateways, "gateway", nil, "address of the gateway in the subnet")
	f.StringArrayVar(&c.auxes, "aux-address", nil, "address that is not given to containers: NAME=ADDRESS")
	f.StringArrayVarP(&c.options, "opt", "o", nil, "option of the driver: NAME=VALUE")
	f.StringArrayVar(&c.labels, "label", nil, "set a label: NAME[=VALUE]")
	check(f, "label", checkLabel)
	f.BoolVar(&c.internal, "internal", false, "nothing leads out of it")
	f.BoolVar(&c.ipv4, "ipv4", true, "give containers IPv4 addresses")
	f.BoolVar(&c.ipv6, "ipv6", false, "give containers IPv6 addresses")
	f.BoolVar(&c.attachable, "attachable", false, "accepted for docker's sake: every network is")
	f.BoolVar(&c.ingress, "ingress", false, "of swarms, which are not there")
	f.BoolVar(&c.configOnly, "config-only", false, "keep the configuration for --config-from only")
	f.StringVar(&c.configFrom, "config-from", "", "network whose configuration is used")
	f.StringVar(&c.ipamDriver, "ipam-driver", "default", "default is the only one")
	f.StringArrayVar(&c.ipamOptions, "ipam-opt", nil, "option kept for docker's sake: NAME=VALUE")
	f.StringVar(&c.scope, "scope", "", "local is the only one")
	hide(f, "ingress", "ipam-driver", "ipam-opt", "scope")
	return cmd
}

func (c *networkFlags) create(f *pflag.FlagSet, name string) (network.CreateOptions, error) {
	o := network.CreateOptions{
		Name: name, Driver: c.driver, Options: keyValues(c.options), Labels: keyValues(c.labels), IPAMDriver: c.ipamDriver,
		IPAMOption: keyValues(c.ipamOptions), Internal: c.internal, Attachable: c.attachable, Ingress: c.ingress,
		ConfigOnly: c.configOnly, ConfigFrom: c.configFrom,
	}
	if c.scope != "" && c.scope != "local" {
		return o, fmt.Errorf("scope %q is not there, only local", c.scope)
	}
	if f.Changed("ipv4") {
		o.EnableIPv4 = &c.ipv4
	}
	if f.Changed("ipv6") {
		o.EnableIPv6 = &c.ipv6
	}
	var err error
	o.IPAM, err = c.ipam()
	return o, err
}

// ipam sorts ranges, gateways and auxiliary addresses to the subnets they are in, as
// docker's command does.
func (c *networkFlags) ipam() ([]network.IPAMConfig, error) {
	if len(c.subnets) < len(c.ranges) || len(c.subnets) < len(c.gateways) {
		return nil, errors.New("every ip-range or gateway must have a corresponding subnet")
	}
	var list []network.IPAMConfig
	for _, text := range c.subnets {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("invalid subnet %s: %w", text, err)
		}
		for _, other := range list {
			if other.Subnet.Overlaps(p) {
				return nil, errors.New("multiple overlapping subnet configuration is not supported")
			}
		}
		list = append(list, network.IPAMConfig{Subnet: p})
	}
	find := func(a netip.Addr) *network.IPAMConfig {
		for i := range list {
			if list[i].Subnet.Contains(a) {
				return &list[i]
			}
		}
		return nil
	}
	for _, text := range c.ranges {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("invalid ip-range %s: %w", text, err)
		}
		in := find(p.Addr())
		if in == nil {
			return nil, fmt.Errorf("no matching subnet for range %s", text)
		}
		if in.IPRange.IsValid() {
			return nil, errors.New("cannot configure multiple ranges on the same subnet")
		}
		in.IPRange = p
	}
	for _, text := range c.gateways {
		a, err := netip.ParseAddr(text)
		if err != nil {
			return nil, fmt.Errorf("invalid gateway %s: %w", text, err)
		}
		in := find(a)
		if in == nil {
			return nil, fmt.Errorf("no matching subnet for gateway %s", text)
		}
		if in.Gateway.IsValid() {
			return nil, fmt.Errorf("cannot configure multiple gateways for the same subnet (%s)", in.Subnet)
		}
		in.Gateway = a
	}
	for _, text := range c.auxes {
		name, value, _ := strings.Cut(text, "=")
		a, err := netip.ParseAddr(value)
		if err != nil {
			return nil, fmt.Errorf("invalid aux-address %s: %w", text, err)
		}
		in := find(a)
		if in == nil {
			return nil, fmt.Errorf("no matching subnet for aux-address %s", value)
		}
		if in.AuxiliaryAddresses == nil {
			in.AuxiliaryAddresses = map[string]netip.Addr{}
		}
		in.AuxiliaryAddresses[name] = a
	}
	return list, nil
}

func newNetworkLsCommand(a *app) *cobra.Command {
	var quiet, whole bool
	var format string
	var filters []string
	cmd := &cobra.Command{
		Use:     "ls [OPTIONS]",
		Aliases: []string{"list"},
		Short:   "List networks",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			all, err := a.engine().Networks(cmd.Context(), splitFilters(filters))
			if err != nil {
				return err
			}
			slices.SortFunc(all, func(a, b network.Network) int { return naturally(a.Name, b.Name) })
			var rows []ui.Row
			for _, n := range all {
				rows = append(rows, networkRow(n, whole))
			}
			t := ui.Table{
				Fields: []ui.Field{
					{Name: "ID", Header: "NETWORK ID"}, {Name: "Name", Header: "NAME"}, {Name: "Driver", Header: "DRIVER"}, {Name: "Scope", Header: "SCOPE"},
					{Name: "IPv4", Header: "IPV4"}, {Name: "IPv6", Header: "IPV6"}, {Name: "Internal", Header: "INTERNAL"}, {Name: "Labels", Header: "LABELS"},
					{Name: "CreatedAt", Header: "CREATED AT"},
				},
				Default: []string{"ID", "Name", "Driver", "Scope"},
			}
			format = listFormat(format, quiet, func(c dockerConfig) string { return c.NetworksFormat })
			if quiet && (format == "" || format == "table") {
				format = "{{.ID}}"
			}
			return a.ui.List(t, format, rows)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&quiet, "quiet", "q", false, "IDs only")
	f.BoolVar(&whole, "no-trunc", false, "whole IDs")
	f.StringVar(&format, "format", "", "table, json or a template")
	filterVar(f, &filters, "f", "name=, id=, driver=, label=, scope=, type=custom|builtin, dangling=true|false")
	return cmd
}

func networkRow(n network.Network, whole bool) ui.Row {
	id := n.ID
	if !whole {
		id = id[:12]
	}
	return ui.Row{
		"ID": id, "Name": n.Name, "Driver": n.Driver, "Scope": n.Scope, "Labels": joinMap(n.Labels), "CreatedAt": n.Created.String(),
		"IPv4": strconv.FormatBool(n.EnableIPv4), "IPv6": strconv.FormatBool(n.EnableIPv6), "Internal": strconv.FormatBool(n.Internal),
	}
}

func newNetworkInspectCommand(a *app) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "inspect [OPTIONS] NETWORK [NETWORK...]",
		Short: "Show everything about networks",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return inspectAll(a, format, args, func(ref string) (any, error) { return a.engine().InspectNetwork(cmd.Context(), ref) })
		},
	}
	cmd.Flags().StringVarP(&format, "format", "f", "", "json or a template")
	cmd.Flags().BoolP("verbose", "v", false, "accepted for docker's sake")
	hide(cmd.Flags(), "verbose")
	return cmd
}

func newNetworkRmCommand(a *app) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:     "rm [OPTIONS] NETWORK [NETWORK...]",
		Aliases: []string{"remove"},
		Short:   "Remove networks that no running container is in",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return forEach(a, args, func(ref string) error {
				err := a.engine().RemoveNetwork(cmd.Context(), ref)
				if force && isNotFound(err) {
					return errWasGone
				}
				return err
			})
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "a missing network is no error")
	return cmd
}

func newNetworkPruneCommand(a *app) *cobra.Command {
	var force bool
	var filters []string
	cmd := &cobra.Command{
		Use:   "prune [OPTIONS]",
		Short: "Remove networks that no container uses",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !force {
				if !a.confirm(cmd.Context(), "WARNING! This will remove all custom networks not used by at least one container.\n") {
					return nil
				}
			}
			names, err := a.engine().PruneNetworks(cmd.Context(), splitFilters(pruneFilters(filters)))
			if len(names) > 0 {
				a.ui.Println("Deleted Networks:")
				for _, n := range names {
					a.ui.Println(n)
				}
				a.ui.Println()
			}
			return err
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "do not ask")
	filterVar(cmd.Flags(), &filters, "", "label=, label!=, until=TIME")
	return cmd
}

func newNetworkConnectCommand(a *app) *cobra.Command {
	var e endpointFlags
	cmd := &cobra.Command{
		Use:     "connect [OPTIONS] NETWORK CONTAINER",
		Short:   "Put a container into a network",
		Example: "  teu network connect --alias db backend postgres",
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			o, err := e.options()
			if err != nil {
				return err
			}
			return a.engine().ConnectNetwork(cmd.Context(), args[0], args[1], o)
		},
	}
	f := cmd.Flags()
	f.StringSliceVar(&e.aliases, "alias", nil, "name by which others of the network find it")
	f.StringVar(&e.ip, "ip", "", "IPv4 address")
	f.StringVar(&e.ip6, "ip6", "", "IPv6 address")
	check(f, "ip", checkIP)
	check(f, "ip6", checkIP)
	f.StringArrayVar(&e.links, "link", nil, "another container under a name of one's own: CONTAINER[:ALIAS]")
	f.StringSliceVar(&e.linkLocal, "link-local-ip", nil, "link-local address")
	f.StringSliceVar(&e.driverOpts, "driver-opt", nil, "option of the driver: NAME=VALUE")
	f.IntVar(&e.priority, "gw-priority", 0, "the network with the highest gives the default route")
	return cmd
}

func newNetworkDisconnectCommand(a *app) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "disconnect [OPTIONS] NETWORK CONTAINER",
		Short: "Take a container out of a network",
		Args:  cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.engine().DisconnectNetwork(cmd.Context(), args[0], args[1], force)
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "accepted for docker's sake")
	return cmd
}

// newNetworkRepairCommand is what keepers execute when somebody has flushed our rules.
func newNetworkRepairCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "repair",
		Short: "Make the firewall's rules again, should they have been flushed",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return a.engine().RepairNetwork(cmd.Context()) },
	}
}

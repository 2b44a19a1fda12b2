"""wigglenet-operator: an encrypted dual-stack pod network for small Kubernetes clusters, one agent per node.

Facts come in, a plan is computed, the difference is applied, the result is told:

    environ - Settings - AgentConfig ------------.
    file, kernel - look() - HostFacts -----------+
                                                 v
    API -+- Kopf - decode - ClusterStore - snapshot - plan() - DesiredState -.
         |           |       ^   |  changed -> loop.request()                 >- diff() - hold_back() - apply()
         '- Census --|-------'   |                      kernel - observe() --'                            |
                  Problem -------'--------------> TurnReport <--------------------------------------------'
                                                  log | Node status, Events | health, metrics

Layers, imports point down only (checked by import-linter):

    cli, show      commands
    agent          when: the loop, the turn (`agent/reconcile.py` is the place to start reading), the wiring
    kube | kernel  the two edges: the API server; this node (rtnetlink, WireGuard by netlink or socket, nftables, files)
    plan           decide: pure functions, and one that remembers its last answer (`planner`)
    model          words: frozen values

Words: a *claim* is a network that a Node says to have; a *member* is a Node with a usable key; a *peer* is a member that can
be reached; a *closed route* is unreachable with the highest metric, what is left of a pod network when its tunnel route is
gone; a *census* lists what exists, apart from Kopf, so that no lost event lasts; a *departed* Node is one that was deleted
less than a minute ago and still counts as what it was; a *source* is where a node's pod networks are from, an *offer* what
it says; a *zone* of the firewall is a set of networks with one meaning, and a *door* a link that leads to an own pod; a
*repair* writes what was written before and did not last; a *table* is one kind of state with an adapter that reads it and
writes differences; a *turn* is one run of observe, plan, diff, apply, report; a *problem* is what an administrator should
know and can act on.
"""

__version__ = "0.1.0"

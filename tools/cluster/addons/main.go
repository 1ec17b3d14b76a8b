// The agent that enforces NetworkPolicy on one node of the test cluster.
//
// Every packet that begins a connection of a pod goes to a queue of the kernel's, and from there to the policy engine of
// kube-network-policies, which knows pods, namespaces and policies by watching them. What the node itself sends to its
// pods, such as probes, never gets there, as Kubernetes has it.
//
// While nobody reads the queue, everything gets through: a cluster without its agent is one without policies. So whoever
// relies on them has to ask whether the agent enforces: it writes its pid to a file as soon as it does.
package main

import (
	"context"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/florianl/go-nfqueue/v2"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
	"sigs.k8s.io/kube-network-policies/pkg/api"
	"sigs.k8s.io/kube-network-policies/pkg/network"
	"sigs.k8s.io/kube-network-policies/pkg/networkpolicy"
	"sigs.k8s.io/kube-network-policies/pkg/podinfo"
)

const (
	queue = 7
	chain = "BEMA-POLICIES"
	// Room for the headers of IP and TCP with all their options.
	headers = 128
	// Between two looks at the connections that exist already: policies and pods change in bursts.
	pause = 100 * time.Millisecond
)

func main() {
	kubeconfig := flag.String("kubeconfig", "", "the API server, and who we are to it")
	node := flag.String("node", "", "the name of this node")
	pods := flag.String("pods", "", "the network of this node's pods, such as 10.160.129.0/24")
	enforcing := flag.String("enforcing", "", "the file that gets our pid once policies are enforced")
	flag.Parse()
	_ = os.Remove(*enforcing)
	if err := run(*kubeconfig, *node, *pods, *enforcing); err != nil {
		klog.Error(err)
		klog.Flush()
		os.Exit(1)
	}
}

func run(kubeconfig, node, pods, enforcing string) error {
	changed := make(chan struct{}, 1)
	engine, err := startEngine(kubeconfig, node, changed)
	if err != nil {
		return err
	}
	if err := answerQueue(engine); err != nil {
		return fmt.Errorf("queue %d: %w", queue, err)
	}
	if err := divert(pods); err != nil {
		return err
	}
	if err := os.WriteFile(enforcing, fmt.Appendf(nil, "%d\n", os.Getpid()), 0o644); err != nil {
		return err
	}
	klog.Infof("enforcing on %s", node)
	for range changed {
		cut(engine)
		time.Sleep(pause)
	}
	return nil
}

// startEngine returns the engine once it knows everything; `changed` gets a word when a verdict may have changed.
func startEngine(kubeconfig, node string, changed chan<- struct{}) (*networkpolicy.PolicyEngine, error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, err
	}
	config.UserAgent = "bema-test-netpol"
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	factory := informers.NewSharedInformerFactory(client, 0)
	pods, namespaces := factory.Core().V1().Pods(), factory.Core().V1().Namespaces()
	policies := factory.Networking().V1().NetworkPolicies()
	resolver, err := podinfo.NewInformerResolver(pods.Informer())
	if err != nil {
		return nil, err
	}
	known := podinfo.NewInformerProvider(pods, namespaces, nil, []podinfo.IPResolver{resolver})
	evaluator := networkpolicy.NewStandardNetworkPolicy(node, namespaces, pods, policies)
	engine := networkpolicy.NewPolicyEngine(known, []api.PolicyEvaluator{evaluator})
	tell := func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	engine.SetDataplaneSyncCallbacks(tell)
	// The engine does not look again when the labels of a namespace change.
	handler := cache.ResourceEventHandlerFuncs{UpdateFunc: func(any, any) { tell() }}
	if _, err := namespaces.Informer().AddEventHandler(handler); err != nil {
		return nil, err
	}
	forever := make(chan struct{})
	factory.Start(forever)
	factory.WaitForCacheSync(forever)
	return engine, nil
}

// answerQueue gives a verdict on every packet of the queue, in the background.
func answerQueue(engine *networkpolicy.PolicyEngine) error {
	opened, err := nfqueue.Open(&nfqueue.Config{
		NfQueue:      queue,
		MaxPacketLen: headers,
		MaxQueueLen:  4096,
		Copymode:     nfqueue.NfQnlCopyPacket,
		Flags:        nfqueue.NfQaCfgFlagGSO,
		WriteTimeout: time.Second,
	})
	if err != nil {
		return err
	}
	answer := func(found nfqueue.Attribute) int {
		if found.PacketID == nil {
			return 0
		}
		verdict := nfqueue.NfDrop
		if found.Payload != nil && isAllowed(engine, *found.Payload) {
			verdict = nfqueue.NfAccept
		}
		if err := opened.SetVerdict(*found.PacketID, verdict); err != nil {
			klog.Errorf("verdict: %v", err)
		}
		return 0
	}
	failed := func(err error) int {
		klog.Errorf("reading the queue: %v", err)
		return 0
	}
	return opened.RegisterWithErrorFunc(context.Background(), answer, failed)
}

func isAllowed(engine *networkpolicy.PolicyEngine, payload []byte) bool {
	packet, err := network.ParsePacket(payload)
	if err != nil {
		klog.Errorf("a packet that is none: %v", err)
		return false
	}
	allowed := judge(engine, &packet)
	if !allowed {
		klog.Infof("refused %s %s:%d -> %s:%d", packet.Proto, packet.SrcIP, packet.SrcPort, packet.DstIP, packet.DstPort)
	}
	return allowed
}

func judge(engine *networkpolicy.PolicyEngine, packet *network.Packet) bool {
	if packet.SrcIP.Equal(packet.DstIP) {
		return true // no policy keeps a pod from itself
	}
	allowed, err := engine.EvaluatePacket(context.Background(), packet)
	if err != nil {
		klog.Errorf("no verdict: %v", err)
	}
	return allowed && err == nil
}

// divert leads what begins a connection into the queue: what is forwarded to and from pods, its Service replaced by a
// pod already and its source still its own; and what pods send to the node itself.
func divert(pods string) error {
	// Left behind by our predecessor, perhaps.
	for _, rule := range entrances(pods) {
		_ = iptables("-D", rule)
	}
	_ = iptables("-N", chain)
	rules := []string{"-F " + chain}
	rules = append(rules, fmt.Sprintf(
		"-A %s -m conntrack ! --ctstate ESTABLISHED,RELATED -j NFQUEUE --queue-num %d --queue-bypass", chain, queue))
	for _, rule := range entrances(pods) {
		rules = append(rules, "-A "+rule)
	}
	for _, rule := range rules {
		if err := iptables("", rule); err != nil {
			return err
		}
	}
	return nil
}

func entrances(pods string) []string {
	return []string{"FORWARD -j " + chain, fmt.Sprintf("INPUT -s %s ! -i lo -j %s", pods, chain)}
}

func iptables(action, rule string) error {
	words := append([]string{"-w", "-t", "mangle"}, strings.Fields(action+" "+rule)...)
	if output, err := exec.Command("iptables", words...).CombinedOutput(); err != nil {
		return fmt.Errorf("iptables %s: %w: %s", strings.Join(words, " "), err, output)
	}
	return nil
}

// cut ends the connections that would not be allowed to begin now. Their next packet begins a new one.
func cut(engine *networkpolicy.PolicyEngine) {
	own, err := net.InterfaceAddrs()
	if err != nil {
		klog.Errorf("addresses: %v", err)
		return
	}
	count, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, refused{engine, own})
	if err != nil {
		klog.Errorf("cutting connections: %v", err)
	} else if count > 0 {
		klog.Infof("cut %d connections", count)
	}
}

type refused struct {
	engine *networkpolicy.PolicyEngine
	own    []net.Addr
}

var protocols = map[uint8]corev1.Protocol{
	unix.IPPROTO_TCP:  corev1.ProtocolTCP,
	unix.IPPROTO_UDP:  corev1.ProtocolUDP,
	unix.IPPROTO_SCTP: corev1.ProtocolSCTP,
}

// MatchConntrackFlow picks the connections to cut: never those that the node itself began.
func (r refused) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	protocol, known := protocols[flow.Forward.Protocol]
	if !known {
		return false
	}
	for _, address := range r.own {
		if network, isNetwork := address.(*net.IPNet); isNetwork && network.IP.Equal(flow.Forward.SrcIP) {
			return false
		}
	}
	return !judge(r.engine, &network.Packet{
		Family:  corev1.IPv4Protocol,
		SrcIP:   flow.Forward.SrcIP,
		SrcPort: int(flow.Forward.SrcPort),
		// Who answers: behind a Service, a pod.
		DstIP:   flow.Reverse.SrcIP,
		DstPort: int(flow.Reverse.SrcPort),
		Proto:   protocol,
	})
}

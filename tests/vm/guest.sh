# What runs inside of the virtual machine, as root: $1 is how slow it is, the rest a module of Python with its arguments.
# /tmp and /run are the guest's own, everything else is the machine's, read-only.
dmesg -n 1
modprobe -a wireguard veth bridge tun overlay nf_tables || exit 1
ip link set lo up
export LAB_SLOWNESS=$1 HYPOTHESIS_STORAGE_DIRECTORY=/run/hypothesis PYTHONDONTWRITEBYTECODE=1
shift
echo "vm: Linux $(uname -r) runs, with $(nproc) CPU and WireGuard $(cat /sys/module/wireguard/version)"
python -m "$@"
echo "vm: exit status $?"

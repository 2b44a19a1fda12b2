# What runs inside of the virtual machine, as root: $1 is how slow it is, $2 a directory, the rest a command.
# The machine's files are mounted anew, with a cache: without one every import asks for every page again, four times as slow.
slowness=$1 directory=$2 root=/run/root
shift 2
dmesg -n 1
modprobe -a wireguard veth bridge tun overlay nf_tables || exit 1
ip link set lo up
mkdir $root
busybox mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=512000,cache=loose files $root || exit 1
for name in proc sys dev; do busybox mount -o rbind /$name $root/$name; done
mkdir /run/here && busybox mount -o bind "$root$directory" /run/here
for name in run tmp; do busybox mount -t tmpfs $name $root/$name; done
case $directory in /tmp/*) mkdir -p "$root$directory" && busybox mount -o bind /run/here "$root$directory" ;; esac
echo "vm: Linux $(uname -r) runs, with $(nproc) CPU and WireGuard $(cat /sys/module/wireguard/version)"
chroot $root env --chdir="$directory" PYTHONDONTWRITEBYTECODE=1 HYPOTHESIS_STORAGE_DIRECTORY=/run/hypothesis \
  LAB_SLOWNESS="$slowness" "$@"
echo "vm: exit status $?"

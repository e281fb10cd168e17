# Which slot boots. The state is kept twice, at 1 MiB and at 5 MiB of the card: slot, pending, tries. It is written only
# by updates and while one waits to be confirmed, so that a card does not wear and a person who pulls the plug three times does not
# end in an older system.

# The defaults of U-Boot lie below the end of the kernel once it is unpacked.
setenv kernel_addr_r 0x04000000
setenv ramdisk_addr_r 0x0C000000
setenv state_addr 0x0E000000
setenv kernel_comp_addr_r 0x10000000

setenv slot A
setenv pending
setenv tries 0
# The copy that was not read first: whatever a power cut leaves, one of them is whole.
setenv save_one 'mmc write ${state_addr} 0x800 0x20'
setenv save_two 'mmc write ${state_addr} 0x2800 0x20'
setenv save_state 'env export -c -s 0x4000 ${state_addr} slot pending tries; run save_two; run save_one'
# The card that this script was found on.
test -n "${devnum}" || setenv devnum 0
mmc dev ${devnum}
if mmc read ${state_addr} 0x800 0x20 && env import -c ${state_addr} 0x4000 slot pending tries; then
  echo PiCloud: state from the first copy
else
  if mmc read ${state_addr} 0x2800 0x20 && env import -c ${state_addr} 0x4000 slot pending tries; then
    echo PiCloud: state from the second copy
    setenv save_state 'env export -c -s 0x4000 ${state_addr} slot pending tries; run save_one; run save_two'
  else
    echo PiCloud: no state, slot A
  fi
fi
if test "${slot}" != B; then setenv slot A; fi
setenv first ${slot}
if test -n "${pending}"; then
  if test ${tries} -gt 0; then
    setexpr tries ${tries} - 1
    run save_state
    setenv first ${pending}
  else
    echo PiCloud: slot ${pending} was never confirmed, back to slot ${slot}
    setenv pending
    run save_state
  fi
fi

# What does not load leaves the turn to the other slot, and so does what is torn: /boot/sums has the CRC-32 of the kernel and
# of the initrd, since unzip does not look at the one of gzip, and nothing at all looks at the initrd's.
setenv sums_addr 0x0E010000
setenv load_whole 'load mmc ${devnum}:${part} ${to} /boot/${file} && crc32 ${to} ${filesize} 0x0E010100 && cmp.l 0x0E010100 ${sum} 1'
setenv load_kernel 'setenv file Image.gz; setenv to ${kernel_comp_addr_r}; setenv sum ${sums_addr}; run load_whole'
setenv load_initrd 'setenv file initrd.img; setenv to ${ramdisk_addr_r}; setenv sum 0x0E010004; run load_whole'
setenv start 'setenv bootargs console=tty1 console=ttyAMA10,115200 console=ttyS1,115200 ro quiet net.ifnames=0 panic=10 picloud.slot=${b} picloud.pending=${pending} ${extra}; booti ${kernel_addr_r} ${ramdisk_addr_r}:${filesize} ${fdt_addr}'
setenv boot_slot 'if test ${b} = A; then setenv part 2; else setenv part 3; fi; echo PiCloud: slot ${b}; mw.l ${sums_addr} 0 2; load mmc ${devnum}:${part} ${sums_addr} /boot/sums && run load_kernel && unzip ${kernel_comp_addr_r} ${kernel_addr_r} && run load_initrd && run start; echo PiCloud: slot ${b} does not start'
setenv b ${first}
run boot_slot
if test ${first} = A; then setenv b B; else setenv b A; fi
run boot_slot
echo PiCloud: no slot starts, again in 10 seconds
sleep 10
reset

# Which slot boots. The state is kept twice, at 1 MiB and at 5 MiB of the card: slot, pending, tries. It is written only
# while an update waits to be confirmed, so that a card does not wear and a person who pulls the plug three times does not
# end in an older system.

# The defaults of U-Boot lie below the end of the kernel once it is unpacked.
setenv kernel_addr_r 0x04000000
setenv ramdisk_addr_r 0x0C000000
setenv state_addr 0x0E000000
setenv kernel_comp_addr_r 0x10000000

setenv slot A
setenv pending
setenv tries 0
# The second copy first: whatever a power cut leaves, one of them is whole.
setenv save_state 'env export -c -s 0x4000 ${state_addr} slot pending tries; mmc write ${state_addr} 0x2800 0x20; mmc write ${state_addr} 0x800 0x20'
mmc dev 0
if mmc read ${state_addr} 0x800 0x20 && env import -c ${state_addr} 0x4000 slot pending tries; then
  echo PiCloud: state from the first copy
else
  if mmc read ${state_addr} 0x2800 0x20 && env import -c ${state_addr} 0x4000 slot pending tries; then
    echo PiCloud: state from the second copy
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

# What does not load leaves the turn to the other slot. A kernel that is torn may unpack all the same, since U-Boot does not
# look at its checksum; it then ends in a restart, and the tries run out.
setenv boot_slot 'if test ${b} = A; then setenv part 2; else setenv part 3; fi; echo PiCloud: slot ${b}; if load mmc 0:${part} ${ramdisk_addr_r} /boot/initrd.img; then setenv initrd_size ${filesize}; if load mmc 0:${part} ${kernel_comp_addr_r} /boot/Image.gz; then if unzip ${kernel_comp_addr_r} ${kernel_addr_r}; then setenv bootargs console=tty1 console=ttyS1,115200 ro quiet net.ifnames=0 panic=10 picloud.slot=${b} picloud.pending=${pending} ${extra}; booti ${kernel_addr_r} ${ramdisk_addr_r}:${initrd_size} ${fdt_addr}; fi; fi; fi; echo PiCloud: slot ${b} does not start'
setenv b ${first}
run boot_slot
if test ${first} = A; then setenv b B; else setenv b A; fi
run boot_slot
echo PiCloud: no slot starts; again in 10 seconds
sleep 10
reset

// Takes every name under localhost for this machine, as browsers do.
import dns from 'node:dns';

const lookup = dns.lookup;
dns.lookup = (name, ...rest) => lookup(name.endsWith('.localhost') ? '127.0.0.1' : name, ...rest);

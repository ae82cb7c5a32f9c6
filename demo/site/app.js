'use strict';

const $ = (id) => document.getElementById(id);

// ask gets JSON: from Caddy, which knows the session, or from the app behind it.
// A 401 means that the session is over: a page that is loaded anew runs the login
// again, which a script cannot.
async function ask(path) {
	const response = await fetch(path, { headers: { Accept: 'application/json' } });
	if (response.status === 401) {
		signInAgain();
		await new Promise(() => {}); // the page is on its way out
	}
	if (!response.ok) {
		throw new Error(`${path} answered ${response.status}`);
	}
	return response.json();
}

// signInAgain loads the page anew, but not over and over.
function signInAgain() {
	const last = Number(sessionStorage.getItem('reloaded'));
	if (Date.now() - last < 10_000) {
		throw new Error('There is no session, even after a new login.');
	}
	sessionStorage.setItem('reloaded', String(Date.now()));
	location.reload();
}

function showProblem(error) {
	$('problem').textContent = `This did not work: ${error.message}`;
	$('problem').hidden = false;
}

// showUser shows what the profile says: who it is, and when the session ends.
function showUser(me) {
	const name = me.claims.name || me.sub;
	$('hello').textContent = `Hello, ${name}`;
	$('email').textContent = me.claims.email || '';
	$('sub').textContent = me.sub;
	$('avatar').textContent = name.split(/\s+/).slice(0, 2).map((word) => word[0]).join('');
	document.title = `${name} · behind the Aventus login`;

	const end = new Date(me.expires_at);
	$('end').dateTime = me.expires_at;
	$('end').textContent = end.toLocaleString([], { dateStyle: 'medium', timeStyle: 'medium' });
	const tick = () => {
		const left = Math.max(0, Math.ceil((end - Date.now()) / 1000));
		const two = (n) => String(n).padStart(2, '0');
		$('countdown').textContent = `${two(Math.floor(left / 3600))}:${two(Math.floor(left / 60) % 60)}:${two(left % 60)}`;
		if (left === 0) {
			clearInterval(timer);
			ask('/me').catch(showProblem); // nobody is typing here: the page may go
		}
	};
	const timer = setInterval(tick, 1000);
	tick();
}

// showChecked shows what the app itself makes of the token.
function showChecked(user) {
	$('checked').textContent = `It checked the token: ${user.issuer} signed it, for ${user.name}.`;
}

function showHeaders(headers) {
	const rows = [];
	for (const name of Object.keys(headers).sort()) {
		for (const value of headers[name]) {
			const row = document.createElement('tr');
			const head = document.createElement('th');
			head.scope = 'row';
			head.textContent = name;
			const cell = document.createElement('td');
			if (name === 'Authorization') {
				row.className = 'token';
				cell.append(shortened(value));
			} else {
				cell.textContent = value;
			}
			row.append(head, cell);
			rows.push(row);
		}
	}
	rows.sort((a, b) => b.classList.contains('token') - a.classList.contains('token'));
	$('headers').replaceChildren(...rows);
}

// shortened is a token that shows itself whole on request.
function shortened(value) {
	const details = document.createElement('details');
	const summary = document.createElement('summary');
	summary.textContent = `${value.slice(0, 30)}…${value.slice(-8)} (${value.length} characters)`;
	const whole = document.createElement('code');
	whole.textContent = value;
	details.append(summary, whole);
	return details;
}

// showOther links to the other host that shares the login.
function showOther() {
	const other = new URL('/', location);
	other.hostname = location.hostname === 'localhost' ? 'app.localhost' : 'localhost';
	$('there').href = other.href;
	$('there').textContent = other.host;
}

async function start() {
	showOther();
	showUser(await ask('/me'));
	showHeaders(await ask('/app/headers'));
	showChecked(await ask('/app/me'));
}

start().catch(showProblem);

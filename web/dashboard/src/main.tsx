import { render } from 'preact';
import './styles/base.css';
import './styles/frame.css';
import './styles/parts.css';
import './styles/views.css';
import './theme';
import { App } from './app';
import { takeUp } from './live/session';

const root = document.getElementById('app');
if (root === null) throw new Error('the page has no place for the application');
render(<App />, root);
void takeUp();

import { render } from 'preact';
import './styles/base.css';
import './styles/frame.css';
import './styles/parts.css';
import './styles/views.css';
import './theme';
import { App } from './app';
import { start } from './live/feed';

const root = document.getElementById('app');
if (root === null) throw new Error('the page has no place for the application');
render(<App said={null} />, root);
start();
